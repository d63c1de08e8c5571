"""The one route of the document."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse

from ....schemas.errors import NotFound
from ...deps import ServicesDep
from ...services.paging import SIZE_MAX, Page
from .schemas import TrainsOut
from .signature import SignerDep
from .translate import trains_out

_OFFSET_MAX = 2**31 - 1

_services = APIRouter(tags=["AITEMS"])


@_services.get(
    "/services/{serviceId}/trains",
    summary="List training requests",
    response_model=TrainsOut,
)
async def list_trains(
    signer: SignerDep,
    services: ServicesDep,
    service_id: Annotated[str, Path(alias="serviceId", max_length=100, description="Service ID")],
    offset: Annotated[int, Query(ge=0, le=_OFFSET_MAX, description="Start location of query data")] = 0,
    limit: Annotated[int, Query(ge=1, le=SIZE_MAX, description="Maximum number of query data")] = SIZE_MAX,
    is_recent: Annotated[bool, Query(alias="isRecent", description="Only the last request of each type")] = False,
) -> JSONResponse:
    """Get the list of all training requests."""
    page = Page(skip=offset, size=limit)
    trains = await services.trains.read(signer.org, _experiment_id(service_id), page, newest_only=is_recent)
    return JSONResponse(trains_out(trains, offset, limit))


#: The document prints the path with the prefix in its example and without it in its table.
router = APIRouter()
for _prefix in ("/api/v1", ""):
    router.include_router(_services, prefix=_prefix)


def _experiment_id(service_id: str) -> UUID:
    try:
        return UUID(service_id)
    except ValueError:
        raise NotFound("Experiment not found.") from None

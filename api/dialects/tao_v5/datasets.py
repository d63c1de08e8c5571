"""Data sets, and the upload of their files."""

from __future__ import annotations

from typing import Annotated, Any, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from ....datasets.formats import data_types
from ....schemas.errors import InvalidInput
from ...answers import answers
from ...body import documented, json_body
from ...deps import ScopeDep, ServicesDep, SettingsDep
from ...services.experiments.specs import dataset_kind, format_names, read_schema
from ...uploads import UPLOAD_BODY, receive_upload
from .answers import DatasetOut, Datasets, Formats, Said
from .query import Filter, Size, Skip, Sort, list_out, matches, page
from .schemas import DatasetFormat, DatasetIn, DatasetType
from .translate import dataset_out, dataset_source, dataset_values

router = APIRouter(prefix="/datasets", tags=["DATASET"])

#: Clients compare this with `==`, spelling included.
UPLOADED = "Server recieved file and upload process started"

_WORDS = {"name": None, "format": get_args(DatasetFormat), "type": get_args(DatasetType)}

Body = Annotated[DatasetIn, Depends(json_body(DatasetIn))]


@router.get("", summary="List Datasets", responses=answers(list[DatasetOut] | Datasets))
async def list_datasets(
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: Sort = "date-descending",
    name: Filter = None,
    format: Filter = None,
    type: Filter = None,
) -> JSONResponse:
    """Returns the list of Datasets"""
    window = page(skip, size, sort)
    filters = matches(_WORDS, {"name": name, "format": format, "type": type})
    views, total = await services.datasets.read_list(scope.org, filters, window)
    return list_out("datasets", [dataset_out(view, scope) for view in views], total, window, scope)


@router.post(
    "",
    status_code=201,
    summary="Create new Dataset",
    openapi_extra=documented(DatasetIn),
    responses=answers(DatasetOut, 201),
)
async def create_dataset(scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the new Dataset"""
    if body.type is None or body.format is None:
        raise InvalidInput(f"{'type' if body.type is None else 'format'}: it is required.")
    values, labels = dataset_values(body)
    view = await services.datasets.create(
        scope.org,
        scope.caller.user_id,
        type=body.type,
        format=body.format,
        values=values,
        labels=labels,
        source=dataset_source(body),
        variables=body.docker_env_vars,
    )
    return JSONResponse(dataset_out(view, scope), 201)


@router.get(":get_formats", summary="List formats of Datasets", responses=answers(Formats))
async def list_formats(
    dataset_type: Annotated[str | None, Query(max_length=100, description="Type of the Datasets")] = None,
) -> JSONResponse:
    """Returns the formats that Datasets of a type can have, of all types without one"""
    types = [dataset_type] if dataset_type else data_types()
    return JSONResponse({"dataset_formats": list(dict.fromkeys(f for kind in types for f in format_names(kind)))})


@router.post(
    "/{dataset_id}:upload",
    status_code=201,
    summary="Upload files",
    openapi_extra=UPLOAD_BODY,
    responses=answers(Said, 201),
)
async def upload_dataset(
    dataset_id: UUID, request: Request, scope: ScopeDep, services: ServicesDep, settings: SettingsDep
) -> JSONResponse:
    """Adds the images of a tar or tar.gz to the Dataset; several uploads are merged"""
    await receive_upload(request, services, settings, scope.org, dataset_id)
    return JSONResponse({"message": UPLOADED}, 201)


@router.get("/{dataset_id}/specs/{action}/schema", summary="Retrieve Specs schema", responses=answers(dict[str, Any]))
async def read_specs_schema(dataset_id: UUID, action: str, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Specs schema for a given action"""
    view = await services.datasets.read(scope.org, dataset_id)
    return JSONResponse(read_schema(action, dataset_kind(view.row)))


@router.get("/{dataset_id}", summary="Retrieve Dataset", responses=answers(DatasetOut))
async def read_dataset(dataset_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Dataset"""
    return JSONResponse(dataset_out(await services.datasets.read(scope.org, dataset_id), scope))


@router.put(
    "/{dataset_id}", summary="Update Dataset", openapi_extra=documented(DatasetIn), responses=answers(DatasetOut)
)
@router.patch(
    "/{dataset_id}",
    summary="Partial update Dataset",
    openapi_extra=documented(DatasetIn),
    responses=answers(DatasetOut),
)
async def update_dataset(dataset_id: UUID, scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the updated Dataset"""
    values, labels = dataset_values(body)
    values |= {name: word for name in ("type", "format") if (word := getattr(body, name)) is not None}
    view = await services.datasets.update(
        scope.org, dataset_id, values, labels, source=dataset_source(body), variables=body.docker_env_vars
    )
    return JSONResponse(dataset_out(view, scope))


@router.delete("/{dataset_id}", summary="Delete Dataset", responses=answers(DatasetOut))
async def delete_dataset(dataset_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the deleted Dataset"""
    return JSONResponse(dataset_out(await services.datasets.delete(scope.org, dataset_id), scope))

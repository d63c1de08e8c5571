"""Models: what the rest of the project calls experiments."""

from __future__ import annotations

from typing import Annotated, get_args
from uuid import UUID

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ....schemas.errors import InvalidInput
from ...answers import answers
from ...body import documented, json_body
from ...deps import ScopeDep, ServicesDep
from ..tao_v5.query import Filter, Size, Skip, Sort, flag, list_out, matches, page
from .answers import ModelOut
from .schemas import ModelIn, NetworkArch
from .translate import model_out, model_values

router = APIRouter(prefix="/model", tags=["TAO 4 MODEL"])

_WORDS = {"name": None, "network": get_args(NetworkArch)}

Body = Annotated[ModelIn, Depends(json_body(ModelIn))]


@router.get("", summary="List Models", responses=answers(list[ModelOut]))
async def list_models(
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: Sort = "date-descending",
    name: Filter = None,
    arch: Filter = None,
    network_arch: Filter = None,
    read_only: Filter = None,
) -> JSONResponse:
    """Returns the list of Models, those pretrained among them: they have no encryption_key"""
    window = page(skip, size, sort)
    filters = matches(_WORDS, {"name": name, "network": arch})
    filters += matches(_WORDS, {"network": network_arch})
    if (wanted := flag("read_only", read_only)) is not None:
        filters.append(wanted)
    views, total = await services.experiments.read_list_with_base(scope.org, filters, window)
    return list_out("models", [model_out(view, scope) for view in views], total, window, scope)


@router.post(
    "", status_code=201, summary="Create new Model", openapi_extra=documented(ModelIn), responses=answers(ModelOut, 201)
)
async def create_model(scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the new Model"""
    if body.network_arch is None or body.encryption_key is None:
        raise InvalidInput(f"{'network_arch' if body.network_arch is None else 'encryption_key'}: it is required.")
    values, labels, datasets = model_values(body)
    view = await services.experiments.create(
        scope.org,
        scope.caller.user_id,
        body.network_arch,
        values={"name": "My Model", **values},
        labels=labels,
        datasets=datasets,
    )
    return JSONResponse(model_out(view, scope), 201)


@router.get("/{model_id}", summary="Retrieve Model", responses=answers(ModelOut))
async def read_model(model_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Model"""
    if (base := await services.base.find(model_id)) is not None:
        return JSONResponse(model_out(base, scope))
    return JSONResponse(model_out(await services.experiments.read(scope.org, model_id), scope))


@router.put("/{model_id}", summary="Update Model", openapi_extra=documented(ModelIn), responses=answers(ModelOut))
@router.patch(
    "/{model_id}", summary="Partial update Model", openapi_extra=documented(ModelIn), responses=answers(ModelOut)
)
async def update_model(model_id: UUID, scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the updated Model"""
    values, labels, datasets = model_values(body)
    view = await services.experiments.update(
        scope.org, model_id, values=values, labels=labels, datasets=datasets, network=body.network_arch
    )
    return JSONResponse(model_out(view, scope))


@router.delete("/{model_id}", summary="Delete Model", responses=answers(ModelOut))
async def delete_model(model_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Cancels all related running jobs and returns the deleted Model"""
    return JSONResponse(model_out(await services.experiments.delete(scope.org, model_id), scope))

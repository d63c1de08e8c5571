"""Specs of models and of data sets: the same routes below both. They are saved first and used by the jobs to come."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import JSONResponse

from ...answers import answers
from ...body import documented, json_body
from ...deps import ScopeDep, ServicesDep
from ...services.experiments.specs import Subject, dataset_kind, read_schema
from .owners import OWNERS, OwnerDep
from .schemas import SpecIn
from .translate import action_in

_specs = APIRouter(prefix="/specs/{action}")

ActionPath = Annotated[str, Path(max_length=100, description="Action name")]
Body = Annotated[SpecIn, Depends(json_body(SpecIn))]


@_specs.get("/schema", summary="Retrieve Specs schema", responses=answers(dict[str, Any]))
async def read_specs_schema(
    action: ActionPath, owner: OwnerDep, scope: ScopeDep, services: ServicesDep
) -> JSONResponse:
    """Returns the Specs schema for a given action"""
    subject: Subject
    if owner.experiment_id is not None:
        subject = (await services.experiments.read(scope.org, owner.experiment_id)).row.network
    else:
        assert owner.dataset_id is not None
        subject = dataset_kind((await services.datasets.read(scope.org, owner.dataset_id)).row)
    return JSONResponse(read_schema(action_in(action, owner), subject))


@_specs.get("", summary="Retrieve Specs", responses=answers(dict[str, Any]))
async def read_specs(action: ActionPath, owner: OwnerDep, services: ServicesDep) -> JSONResponse:
    """Returns the saved Specs for a given action"""
    return JSONResponse(await services.saved_specs.read(owner, action_in(action, owner)))


@_specs.post(
    "", status_code=201, summary="Save Specs", openapi_extra=documented(SpecIn), responses=answers(dict[str, Any], 201)
)
async def save_specs(action: ActionPath, owner: OwnerDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Save the Specs for a given action"""
    return JSONResponse(await services.saved_specs.save(owner, action_in(action, owner), body.root), 201)


@_specs.put("", summary="Update Specs", openapi_extra=documented(SpecIn), responses=answers(dict[str, Any]))
async def update_specs(action: ActionPath, owner: OwnerDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Update the Specs for a given action: what is not given stays as it was saved"""
    return JSONResponse(await services.saved_specs.save(owner, action_in(action, owner), body.root, merge=True))


router = APIRouter()
for _prefix, _enter, _tag in OWNERS:
    router.include_router(_specs, prefix=_prefix, tags=[_tag], dependencies=[Depends(_enter)])

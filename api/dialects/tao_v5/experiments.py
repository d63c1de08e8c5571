"""Experiments."""

from __future__ import annotations

from typing import Annotated, Any, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse

from ....schemas.errors import InvalidInput
from ...answers import answers
from ...body import documented, json_body
from ...deps import ScopeDep, ServicesDep
from ...services.experiments.specs import read_schema
from ...services.paging import SIZE_MAX, Match
from .answers import ExperimentOut, Experiments
from .query import Filter, Size, Skip, Sort, flag, list_out, matches, page
from .schemas import ExperimentIn, ExperimentType, NetworkArch
from .translate import base_out, experiment_out, experiment_values, listed_out

router = APIRouter(prefix="/experiments", tags=["EXPERIMENT"])

_WORDS = {"name": None, "kind": get_args(ExperimentType), "network": get_args(NetworkArch)}

Body = Annotated[ExperimentIn, Depends(json_body(ExperimentIn))]


@router.get("", summary="List Experiments", responses=answers(list[ExperimentOut] | Experiments))
async def list_experiments(
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: Sort = "date-descending",
    name: Filter = None,
    type: Filter = None,
    arch: Filter = None,
    network_arch: Filter = None,
    read_only: Filter = None,
    user_only: Annotated[bool, Query(description="Only those that the caller made")] = False,
) -> JSONResponse:
    """Returns the list of Experiments; base experiments too, but to clients from 5.5 on, which ask for them apart"""
    window = page(skip, size, sort)
    filters = matches(_WORDS, {"name": name, "kind": type, "network": arch})
    filters += matches(_WORDS, {"network": network_arch})
    if (wanted := flag("read_only", read_only)) is not None:
        filters.append(wanted)
    if user_only:
        filters.append(Match("user_id", scope.caller.user_id))
    if scope.lists_are_objects or user_only:
        own, total = await services.experiments.read_list(scope.org, filters, window)
        return list_out("experiments", [experiment_out(view, scope) for view in own], total, window, scope)
    views, total = await services.experiments.read_list_with_base(scope.org, filters, window)
    return list_out("experiments", [listed_out(view, scope) for view in views], total, window, scope)


@router.get(":base", summary="List base Experiments", responses=answers(list[ExperimentOut] | Experiments))
async def list_base_experiments(
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: Sort = "date-descending",
    name: Filter = None,
    network_arch: Filter = None,
    arch: Filter = None,
) -> JSONResponse:
    """Returns the list of pretrained models that Experiments can start from"""
    window = page(skip, size, sort)
    filters = matches(_WORDS, {"name": name, "network": arch}) + matches(_WORDS, {"network": network_arch})
    bases = await services.base.read_list(filters, window)
    shown = [base_out(base, scope) for base in bases[skip : skip + min(size, SIZE_MAX)]]
    return list_out("experiments", shown, len(bases), window, scope)


@router.post(
    "",
    status_code=201,
    summary="Create new Experiment",
    openapi_extra=documented(ExperimentIn),
    responses=answers(ExperimentOut, 201),
)
async def create_experiment(scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the new Experiment"""
    if body.network_arch is None:
        raise InvalidInput("network_arch: it is required.")
    values, labels, datasets = experiment_values(body)
    view = await services.experiments.create(
        scope.org,
        scope.caller.user_id,
        body.network_arch,
        values=values,
        labels=labels,
        datasets=datasets,
        variables=body.docker_env_vars,
    )
    return JSONResponse(experiment_out(view, scope), 201)


@router.get(
    "/{experiment_id}/specs/{action}/schema", summary="Retrieve Specs schema", responses=answers(dict[str, Any])
)
async def read_specs_schema(experiment_id: UUID, action: str, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Specs schema for a given action"""
    view = await services.experiments.read(scope.org, experiment_id)
    return JSONResponse(read_schema(action, view.row.network))


@router.get("/{experiment_id}", summary="Retrieve Experiment", responses=answers(ExperimentOut))
async def read_experiment(experiment_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Experiment"""
    if (base := await services.base.find(experiment_id)) is not None:
        return JSONResponse(base_out(base, scope))
    return JSONResponse(experiment_out(await services.experiments.read(scope.org, experiment_id), scope))


@router.put(
    "/{experiment_id}",
    summary="Update Experiment",
    openapi_extra=documented(ExperimentIn),
    responses=answers(ExperimentOut),
)
@router.patch(
    "/{experiment_id}",
    summary="Partial update Experiment",
    openapi_extra=documented(ExperimentIn),
    responses=answers(ExperimentOut),
)
async def update_experiment(experiment_id: UUID, scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the updated Experiment"""
    values, labels, datasets = experiment_values(body)
    view = await services.experiments.update(
        scope.org,
        experiment_id,
        values=values,
        labels=labels,
        datasets=datasets,
        network=body.network_arch,
        variables=body.docker_env_vars,
    )
    return JSONResponse(experiment_out(view, scope))


@router.delete("/{experiment_id}", summary="Delete Experiment", responses=answers(ExperimentOut))
async def delete_experiment(experiment_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Cancels all related running jobs and returns the deleted Experiment"""
    return JSONResponse(experiment_out(await services.experiments.delete(scope.org, experiment_id), scope))

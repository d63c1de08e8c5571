"""Workspaces: places in clouds that data sets are fetched from. Clients from 5.5 on have them."""

from __future__ import annotations

from typing import Annotated, get_args
from uuid import UUID

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ....schemas.errors import InvalidInput
from ...answers import answers
from ...body import documented, json_body
from ...deps import ScopeDep, ServicesDep
from .answers import WorkspaceOut, Workspaces
from .query import Filter, Size, Skip, Sort, list_out, matches, page
from .schemas import CloudType, WorkspaceIn
from .translate import workspace_out, workspace_values

router = APIRouter(prefix="/workspaces", tags=["WORKSPACE"])

_WORDS = {"name": None, "cloud_type": get_args(CloudType)}

Body = Annotated[WorkspaceIn, Depends(json_body(WorkspaceIn))]


@router.get("", summary="List Workspaces", responses=answers(list[WorkspaceOut] | Workspaces))
async def list_workspaces(
    scope: ScopeDep,
    services: ServicesDep,
    skip: Skip = 0,
    size: Size = 1000,
    sort: Sort = "date-descending",
    name: Filter = None,
    cloud_type: Filter = None,
) -> JSONResponse:
    """Returns the list of Workspaces"""
    window = page(skip, size, sort)
    rows, total = await services.workspaces.read_list(
        scope.org, matches(_WORDS, {"name": name, "cloud_type": cloud_type}), window
    )
    return list_out("workspaces", [workspace_out(row) for row in rows], total, window, scope)


@router.post(
    "",
    status_code=201,
    summary="Create new Workspace",
    openapi_extra=documented(WorkspaceIn),
    responses=answers(WorkspaceOut, 201),
)
async def create_workspace(scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the new Workspace"""
    if body.cloud_type is None:
        raise InvalidInput("cloud_type: it is required.")
    row = await services.workspaces.create(
        scope.org,
        scope.caller.user_id,
        cloud_type=body.cloud_type,
        details=body.cloud_specific_details or {},
        values=workspace_values(body),
    )
    return JSONResponse(workspace_out(row), 201)


@router.get("/{workspace_id}", summary="Retrieve Workspace", responses=answers(WorkspaceOut))
async def read_workspace(workspace_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the Workspace"""
    return JSONResponse(workspace_out(await services.workspaces.read(scope.org, workspace_id)))


@router.put(
    "/{workspace_id}",
    summary="Update Workspace",
    openapi_extra=documented(WorkspaceIn),
    responses=answers(WorkspaceOut),
)
@router.patch(
    "/{workspace_id}",
    summary="Partial update Workspace",
    openapi_extra=documented(WorkspaceIn),
    responses=answers(WorkspaceOut),
)
async def update_workspace(workspace_id: UUID, scope: ScopeDep, services: ServicesDep, body: Body) -> JSONResponse:
    """Returns the updated Workspace"""
    values = workspace_values(body) | ({"cloud_type": body.cloud_type} if body.cloud_type is not None else {})
    row = await services.workspaces.update(scope.org, workspace_id, details=body.cloud_specific_details, values=values)
    return JSONResponse(workspace_out(row))


@router.delete("/{workspace_id}", summary="Delete Workspace", responses=answers(WorkspaceOut))
async def delete_workspace(workspace_id: UUID, scope: ScopeDep, services: ServicesDep) -> JSONResponse:
    """Returns the deleted Workspace"""
    return JSONResponse(workspace_out(await services.workspaces.delete(scope.org, workspace_id)))

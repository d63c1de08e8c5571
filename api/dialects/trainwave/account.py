"""Who one is, and what one's org has: projects and secrets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, Response

from ....schemas.errors import NotAvailable
from ...answers import answers
from ...body import documented, json_body
from ...deps import ServicesDep
from ...services.paging import Page
from .access import CallerDep, enter_org
from .answers import Listed, OneProject, OneUser, Organization, ProjectOut, SecretOut
from .jobs import Limit, Offset, Said
from .schemas import ProjectIn, SecretsIn
from .translate import list_out, one_out, org_out, project_out, secret_out, user_out

router = APIRouter(tags=["TRAINWAVE ACCOUNT"])

OrgPath = Annotated[str, Path(max_length=300, description="Organization ID")]


@router.get("/users/me/", summary="Say who calls", responses=answers(OneUser))
async def read_me(caller: CallerDep) -> JSONResponse:
    """Returns the user whom the API key belongs to"""
    return JSONResponse(one_out(user_out(caller)))


@router.get("/organizations/", summary="List Organizations", responses=answers(Listed[Organization, Organization]))
async def list_organizations(
    request: Request, caller: CallerDep, limit: Limit = 20, offset: Offset = 0
) -> JSONResponse:
    """Returns the one organization that the API key belongs to"""
    items = [org_out(caller.org)][offset : offset + limit]
    return JSONResponse(list_out(request, items, items, 1, limit=limit, offset=offset))


@router.get("/projects/", summary="List Projects", responses=answers(Listed[ProjectOut, ProjectOut]))
async def list_projects(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    org: Said = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> JSONResponse:
    """Returns a page of the projects of the organization, newest first"""
    found, total = await services.projects.read_list(enter_org(caller, org), Page(skip=offset, size=limit))
    items = [project_out(project) for project in found]
    return JSONResponse(list_out(request, items, items, total, limit=limit, offset=offset))


@router.post(
    "/projects/",
    status_code=201,
    summary="Create Project",
    openapi_extra=documented(ProjectIn),
    responses=answers(OneProject, 201),
)
async def create_project(
    caller: CallerDep, services: ServicesDep, body: Annotated[ProjectIn, Depends(json_body(ProjectIn))]
) -> JSONResponse:
    """Returns the new project"""
    project = await services.projects.create(enter_org(caller, body.organization), body.name)
    return JSONResponse(one_out(project_out(project)), 201)


@router.get("/organizations/{org}/secrets/", summary="List Secrets", responses=answers(Listed[SecretOut, SecretOut]))
async def list_secrets(org: OrgPath, request: Request, caller: CallerDep, services: ServicesDep) -> JSONResponse:
    """Returns the names and digests of the secrets; nobody can read their values"""
    items = [secret_out(secret) for secret in await services.variables.read_list(enter_org(caller, org))]
    return JSONResponse(list_out(request, items, items, len(items), limit=max(len(items), 1), offset=0))


@router.post(
    "/organizations/{org}/secrets/",
    status_code=201,
    summary="Set Secrets",
    openapi_extra=documented(SecretsIn),
    responses=answers(Listed[SecretOut, SecretOut], 201),
)
async def set_secrets(
    org: OrgPath,
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    body: Annotated[SecretsIn, Depends(json_body(SecretsIn))],
) -> JSONResponse:
    """Gives variables to all jobs of the organization, or of one project, that start from now on"""
    name = enter_org(caller, org)
    project = await services.projects.find(name, body.project) if body.project else None
    values = {secret.name: secret.value for secret in body.secrets}
    await services.variables.set(name, project.id if project is not None else None, values)
    items = [secret_out(secret) for secret in await services.variables.read_list(name)]
    return JSONResponse(list_out(request, items, items, len(items), limit=max(len(items), 1), offset=0), 201)


@router.delete("/organizations/{org}/secrets/{secret_name}/", status_code=204, summary="Unset a Secret")
async def unset_secret(
    org: OrgPath,
    secret_name: Annotated[str, Path(max_length=255)],
    caller: CallerDep,
    services: ServicesDep,
) -> Response:
    """Takes the secret from the organization and from all its projects"""
    await services.variables.unset(enter_org(caller, org), secret_name)
    return Response(status_code=204)


@router.get("/ssh-proxy/", summary="Say where to log in to running jobs")
@router.get("/ssh-keys/", summary="List SSH keys")
@router.post("/ssh-keys/", summary="Add an SSH key")
async def refuse_ssh(caller: CallerDep) -> Response:
    """Not available: nobody can log in to running jobs"""
    raise NotAvailable(
        "Nobody can log in to running jobs here, so there are no SSH keys.", hint="Read the logs instead."
    )


@router.delete("/ssh-keys/{key_id}/", summary="Remove an SSH key")
async def refuse_ssh_key(caller: CallerDep, key_id: Annotated[str, Path(max_length=300)]) -> Response:
    """Not available, as all of SSH"""
    return await refuse_ssh(caller)

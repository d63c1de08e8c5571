"""What routes ask for by their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..schemas.errors import Forbidden, InvalidInput, NotAuthenticated, NotFound
from .services.accounts.auth import Caller
from .services.container import Services
from .settings import ApiSettings

_bearer = HTTPBearer(bearerFormat="JWT", description="The token of POST /api/v1/login.", auto_error=False)


async def read_services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def read_settings(request: Request) -> ApiSettings:
    settings: ApiSettings = request.app.state.settings
    return settings


ServicesDep = Annotated[Services, Depends(read_services)]
SettingsDep = Annotated[ApiSettings, Depends(read_settings)]


async def read_caller(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Return who calls; the only way to it is a valid token."""
    if isinstance(caller := getattr(request.state, "caller", None), Caller):
        return caller  # `IdempotentPosts` has asked for the same token
    if credentials is None:
        raise NotAuthenticated("No bearer token was sent.")
    return await services.auth.authenticate(credentials.credentials)


CallerDep = Annotated[Caller, Depends(read_caller)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose things a request is about, and which of the two roots it came by."""

    caller: Caller
    by_user: bool
    """True below /users/{user_id}, False below /orgs/{org_name}."""

    @property
    def org(self) -> str:
        return self.caller.org

    @property
    def lists_are_objects(self) -> bool:
        """Clients from 5.5 on read `{"datasets": [...]}` where the document prints an array."""
        return not self.by_user and self.caller.release >= (5, 5)


async def enter_org(
    request: Request,
    caller: CallerDep,
    org_name: Annotated[str, Path(max_length=255, pattern="^[a-zA-Z0-9]+$", description="Org Name")],
) -> None:
    """Let a caller into the own org; any other answers like one that does not exist."""
    if org_name != caller.org:
        raise NotFound("Org not found.")
    request.state.scope = Scope(caller=caller, by_user=False)


async def enter_user(
    request: Request,
    caller: CallerDep,
    user_id: Annotated[str, Path(max_length=36, description="User ID")],
) -> None:
    """Let callers into their own things only."""
    try:
        wanted = UUID(user_id)
    except ValueError as error:
        raise InvalidInput("user_id: it is no UUID.") from error
    if wanted != caller.user_id:
        raise Forbidden(
            f"The token belongs to the user {caller.user} ({caller.user_id}), the path names another.",
            hint="Log in anew if the client keeps an old user id.",
        )
    request.state.scope = Scope(caller=caller, by_user=True)


async def read_scope(request: Request) -> Scope:
    """Return the scope that `enter_org` or `enter_user` has opened; without one nobody comes in."""
    scope = getattr(request.state, "scope", None)
    if not isinstance(scope, Scope):
        raise NotAuthenticated("The request has no scope.")
    return scope


ScopeDep = Annotated[Scope, Depends(read_scope)]

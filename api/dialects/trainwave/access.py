"""Who calls: by the API key itself, as this dialect sends it, or by a token as all others do."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from ....schemas.errors import NotAuthenticated, NotFound
from ...deps import ServicesDep
from ...services.accounts.auth import Caller

_key = APIKeyHeader(name="X-API-KEY", auto_error=False, description="An API key, as `trainyard keys create` makes it.")
_bearer = HTTPBearer(bearerFormat="JWT", auto_error=False)


async def read_caller(
    services: ServicesDep,
    key: Annotated[str | None, Security(_key)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    """Return who calls; the only way to it is a valid key or token."""
    if key is not None:
        return await services.auth.authenticate_key(key)
    if credentials is not None:
        return await services.auth.authenticate(credentials.credentials)
    raise NotAuthenticated("No API key was sent.", hint="Send it as the header X-API-KEY.")


CallerDep = Annotated[Caller, Depends(read_caller)]


def enter_org(caller: Caller, said: str | None) -> str:
    """Return the org of the caller; any other answers like one that does not exist."""
    if said and said not in (caller.org, org_rid(caller.org)):
        raise NotFound("Organization not found.", hint="GET /api/v1/organizations/ lists yours.")
    return caller.org


def org_rid(org: str) -> str:
    return f"o-{org}"

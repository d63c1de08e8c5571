"""Login of clients before 5.2: they send the key in the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse

from ...answers import answers
from ...deps import ServicesDep
from ..tao_v5.answers import Login

router = APIRouter(tags=["AUTHENTICATION"])


@router.get("/login/{ngc_api_key}", summary="User Login by the path", responses=answers(Login))
async def login(ngc_api_key: Annotated[str, Path(max_length=1000)], services: ServicesDep) -> JSONResponse:
    """Returns the user credentials. Proxies write paths to their logs: prefer POST /login."""
    user_id, token = await services.auth.login(ngc_api_key)
    return JSONResponse({"user_id": str(user_id), "token": token})

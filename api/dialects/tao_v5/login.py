"""Login: the one route without a token."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from ...answers import answers
from ...body import documented, json_body
from ...deps import ServicesDep
from .answers import Login
from .schemas import LoginIn

router = APIRouter(tags=["AUTHENTICATION"])


@router.post(
    "/login", status_code=201, summary="User Login", openapi_extra=documented(LoginIn), responses=answers(Login, 201)
)
async def login(body: Annotated[LoginIn, Depends(json_body(LoginIn))], services: ServicesDep) -> JSONResponse:
    """Returns the user credentials"""
    user_id, token = await services.auth.login(body.ngc_api_key)
    return JSONResponse({"user_id": str(user_id), "token": token}, 201)

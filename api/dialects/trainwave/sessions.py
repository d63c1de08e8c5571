"""Logins and configurations of command lines, by a page in the user's browser."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, JSONResponse

from ....schemas.errors import InvalidInput, NotAuthenticated, YardError
from ...answers import answers
from ...body import documented, json_body, read_limited
from ...deps import ServicesDep
from ...services.paging import Page
from .access import CallerDep
from .answers import Session, SessionConfig, SessionKey, SessionWaiting
from .pages import FIELDS, config_page, login_page, message_page
from .schemas import ConfigSessionIn, SessionIn, SessionStatusIn

router = APIRouter(prefix="/cli", tags=["TRAINWAVE LOGIN"])
pages = APIRouter(prefix="/cli", tags=["TRAINWAVE LOGIN"], default_response_class=HTMLResponse)

_FORM_MAX_BYTES = 1 << 16
_FORM: dict[str, Any] = {
    "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}}
}
_ALL_PROJECTS = Page()

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
}


@router.post(
    "/create_session/",
    status_code=201,
    summary="Begin a login",
    openapi_extra=documented(SessionIn),
    responses=answers(Session, 201),
)
async def create_session(
    request: Request, services: ServicesDep, body: Annotated[SessionIn, Depends(json_body(SessionIn))]
) -> JSONResponse:
    """Returns the address of the page for the user, and the token for the command line"""
    begun = await services.sessions.begin("login", body.name)
    return JSONResponse({"url": f"{request.base_url}cli/login/{begun.id}", "token": begun.token}, 201)


@router.post(
    "/session_status/",
    summary="Fetch the API key of a login",
    openapi_extra=documented(SessionStatusIn),
    responses=answers(SessionKey) | answers(SessionWaiting, 202),
)
async def read_session_status(
    services: ServicesDep, body: Annotated[SessionStatusIn, Depends(json_body(SessionStatusIn))]
) -> JSONResponse:
    """Returns a new API key, once; 202 while the user has not approved the login"""
    key = await services.sessions.collect(body.token)
    return JSONResponse({"api_token": key}) if key is not None else JSONResponse({"status": "waiting"}, 202)


@router.post(
    "/config_session/",
    status_code=201,
    summary="Begin a configuration",
    openapi_extra=documented(ConfigSessionIn),
    responses=answers(Session, 201),
)
async def create_config_session(
    request: Request,
    caller: CallerDep,
    services: ServicesDep,
    body: Annotated[ConfigSessionIn, Depends(json_body(ConfigSessionIn))],
) -> JSONResponse:
    """Returns the address of the page for the user, and the token for the command line"""
    begun = await services.sessions.begin("config", "", caller, body.model_dump())
    return JSONResponse({"url": f"{request.base_url}cli/config/{begun.id}", "token": begun.token}, 201)


@router.get("/{token}/config/", summary="Fetch a configuration", responses=answers(SessionConfig))
async def read_config(
    token: Annotated[str, Path(max_length=200)], caller: CallerDep, services: ServicesDep
) -> JSONResponse:
    """Returns what the user has filled in, as soon as it is there"""
    content = await services.sessions.read_configuration(caller, token)
    return JSONResponse({"status": "pending" if content is None else "complete", "config": content})


@pages.get("/login/{session_id}", summary="Show the page of a login")
async def show_login(session_id: UUID, services: ServicesDep) -> HTMLResponse:
    try:
        session = await services.sessions.find("login", session_id)
    except YardError as error:
        return _page(message_page(error.message, error.hint), error.status)
    return _page(login_page(session.name))


@pages.post("/login/{session_id}", summary="Approve a login", openapi_extra=_FORM)
async def approve_login(session_id: UUID, request: Request, services: ServicesDep) -> HTMLResponse:
    form = await _read_form(request)
    try:
        session = await services.sessions.find("login", session_id)
        try:
            user = await services.sessions.approve(session_id, form.get("key", "").strip())
        except NotAuthenticated as error:
            return _page(login_page(session.name, error.message), error.status)
    except YardError as error:
        return _page(message_page(error.message, error.hint), error.status)
    return _page(message_page(f"{session.name} acts for {user} now.", "You can close this page."))


@pages.get("/config/{session_id}", summary="Show the page of a configuration")
async def show_config(session_id: UUID, services: ServicesDep) -> HTMLResponse:
    try:
        session = await services.sessions.find("config", session_id)
    except YardError as error:
        return _page(message_page(error.message, error.hint), error.status)
    assert session.org is not None
    projects, _ = await services.projects.read_list(session.org, _ALL_PROJECTS)
    return _page(config_page(services.sessions.configuration(session), [p.name for p in projects]))


@pages.post("/config/{session_id}", summary="Save a configuration", openapi_extra=_FORM)
async def save_config(session_id: UUID, request: Request, services: ServicesDep) -> HTMLResponse:
    form = await _read_form(request)
    try:
        session = await services.sessions.find("config", session_id)
        assert session.org is not None
        content: dict[str, Any] = {"organization": session.org}
        for field in FIELDS:
            if (text := form.get(field.name, "").strip()) != "":
                content[field.name] = _number(field.name, text) if field.is_number else text
        if (kept := services.sessions.configuration(session).get("env_vars")) is not None:
            content["env_vars"] = kept
        await services.sessions.configure(session_id, content)
    except YardError as error:
        return _page(message_page(error.message, error.hint), error.status)
    return _page(message_page("Your terminal has the configuration now.", "You can close this page."))


async def _read_form(request: Request) -> dict[str, str]:
    content = await read_limited(request, _FORM_MAX_BYTES)
    try:
        fields = parse_qs(content.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise InvalidInput("The form has too many fields.") from error
    return {name: values[-1] for name, values in fields.items()}


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInput(f"{name}: it is no whole number.", hint="Go back and put it right.")
    return int(text)


def _page(content: str, status_code: int = 200) -> HTMLResponse:
    return HTMLResponse(content, status_code, _HEADERS)

"""How each dialect tells an error: one table."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ..schemas.errors import Forbidden, InvalidInput, NotAuthenticated, TooSlow, YardError

logger = logging.getLogger(__name__)

#: Statuses above 500 that are no fault of the yard: there is no room left, or it lacks something on purpose.
_EXPECTED = (HTTPStatus.INSUFFICIENT_STORAGE, HTTPStatus.NOT_IMPLEMENTED)

#: Codes of errors that clients of the API documents tell apart; all others carry the HTTP status.
_TAO_CODES: dict[type[YardError], int] = {NotAuthenticated: 1, Forbidden: 2}


def _render_tao(error: YardError) -> dict[str, Any]:
    return {"error_desc": str(error)[:1000], "error_code": _TAO_CODES.get(type(error), error.status)}


#: How `tao_v4` calls what messages name; the first that fits counts.
_WORDS_V4 = {
    "base_experiment": "ptm",
    "automl_settings.": "",
    "parent_job_id": "job",
    "an experiment": "a model",
    "Experiment": "Model",
    "experiment": "model",
    "/datasets": "/dataset",
    ":upload": "/upload",
    ":download": "/download",
    ":list_files": "/list_files",
}
_WORD_V4 = re.compile("|".join(map(re.escape, _WORDS_V4)))


def _render_tao_v4(error: YardError) -> dict[str, Any]:
    body = _render_tao(error)
    return body | {"error_desc": _WORD_V4.sub(lambda found: _WORDS_V4[found[0]], body["error_desc"])}


_TRAINWAVE = (
    *("/api/v1/jobs/", "/api/v1/code/", "/api/v1/metrics/", "/api/v1/organizations/", "/api/v1/projects/"),
    *("/api/v1/users/me/", "/api/v1/cli/", "/api/v1/ssh-keys/", "/api/v1/ssh-proxy/", "/cli/"),
)


def _render_trainwave(error: YardError) -> dict[str, Any]:
    return {"success": False, "error": {"code": error.code, "message": str(error)[:1000]}}


#: Codes and messages of the gateway in front of AiTEMS, by HTTP status.
_AITEMS = {
    400: ("100", "Bad Request Exception"),
    401: ("200", "Authentication Failed"),
    403: ("210", "Permission Denied"),
    404: ("300", "Not Found Exception"),
    413: ("430", "Request Entity Too Large"),
    429: ("420", "Rate Limited"),
    503: ("500", "Endpoint Error"),
}


def _render_aitems(error: YardError) -> dict[str, Any]:
    fallback = ("100", "Bad Request Exception") if error.status < 500 else ("900", "Unexpected Error")
    code, message = _AITEMS.get(error.status, fallback)
    return {"error": {"errorCode": code, "message": message, "details": str(error)[:1000]}}


def _render_workspace(error: YardError) -> dict[str, Any]:
    return {"error_code": error.code.upper(), "message": str(error)[:1000]}


#: Body of an error by the start of the path; the first that fits counts.
RENDERERS: list[tuple[str, Callable[[YardError], dict[str, Any]]]] = [
    ("/api/v1/user/", _render_tao_v4),
    *((path, _render_trainwave) for path in _TRAINWAVE),
    ("/api/v1/services/", _render_aitems),
    ("/services/", _render_aitems),
    ("/train/", _render_workspace),
    ("/", _render_tao),
]

#: Model of these bodies in the served document, in the same way.
MODELS: dict[str, str] = {
    **dict.fromkeys(_TRAINWAVE, "TrainwaveError"),
    "/api/v1/services/": "AitemsError",
    "/services/": "AitemsError",
    "/train/": "WorkspaceError",
    "/": "TaoError",
}


def render(request: Request, error: YardError) -> JSONResponse:
    """Return an error as the dialect of the request's path says it."""
    body = next(renderer for prefix, renderer in RENDERERS if request.url.path.startswith(prefix))(error)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, TooSlow):
        headers["Connection"] = "close"
    return JSONResponse(body, error.status, headers)


def invalid(error: RequestValidationError | ValidationError, *, skip: int = 0) -> InvalidInput:
    """Return the 400 for values that do not fit; the values themselves are not repeated, they may be secret."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'][skip:]) or 'body'}: {problem['msg']}"
        for problem in error.errors()
    ]
    return InvalidInput("; ".join(problems[:10]) + ".")


def _loggable(path: str) -> str:
    """Return a path without the API key that the login of old clients puts there, and without what forges lines."""
    head, login, _ = path.partition("/login/")
    shown = head + login + "..." if login else path
    return "".join(character if character.isprintable() else "?" for character in shown)


def install(app: FastAPI) -> None:
    """Let every error of `app` leave it in the words of a dialect."""

    async def on_yard_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, YardError)
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in _EXPECTED:
            logger.error("%s %s: %s", request.method, _loggable(request.url.path), error)
        return render(request, error)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return render(request, invalid(error, skip=1))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        failure = YardError(f"{HTTPStatus(error.status_code).phrase}: {request.method} {request.url.path[:200]}")
        failure.status = error.status_code
        response = render(request, failure)
        response.headers.update(error.headers or {})
        return response

    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        # the trace goes to the log of the server, which raises the error again, and nowhere else
        return render(request, YardError("Something went wrong here.", hint="The log of the facade says more."))

    app.add_exception_handler(YardError, on_yard_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)

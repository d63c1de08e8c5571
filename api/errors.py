"""How each dialect tells an error: one table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from ..schemas.errors import Forbidden, InvalidInput, NotAuthenticated, YardError

logger = logging.getLogger(__name__)

#: Codes of errors that clients of the API documents tell apart; all others carry the HTTP status.
_TAO_CODES: dict[type[YardError], int] = {NotAuthenticated: 1, Forbidden: 2}


def _render_tao(error: YardError) -> dict[str, Any]:
    return {"error_desc": str(error)[:1000], "error_code": _TAO_CODES.get(type(error), error.status)}


#: Body of an error by the start of the path; the first that fits counts.
RENDERERS: list[tuple[str, Callable[[YardError], dict[str, Any]]]] = [("/", _render_tao)]


def render(request: Request, error: YardError) -> JSONResponse:
    """Return an error as the dialect of the request's path says it."""
    body = next(renderer for prefix, renderer in RENDERERS if request.url.path.startswith(prefix))(error)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == HTTPStatus.UNAUTHORIZED else None
    return JSONResponse(body, error.status, headers)


def invalid(error: RequestValidationError | ValidationError, *, skip: int = 0) -> InvalidInput:
    """Return the 400 for values that do not fit; the values themselves are not repeated, they may be secret."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'][skip:]) or 'body'}: {problem['msg']}"
        for problem in error.errors()
    ]
    return InvalidInput("; ".join(problems[:10]) + ".")


def install(app: FastAPI) -> None:
    """Let every error of `app` leave it in the words of a dialect."""

    async def on_yard_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, YardError)
        if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.status != HTTPStatus.INSUFFICIENT_STORAGE:
            logger.error("%s %s: %s", request.method, request.url.path, error)
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

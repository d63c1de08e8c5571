"""What the served OpenAPI document says beyond the routes: errors of every dialect, and the header of every POST."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from .idempotency import HEADER

IDEMPOTENCY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A random text, the same for all tries of one request: it is done once and answered alike.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


class TaoError(BaseModel):
    """An error of the TAO dialects."""

    error_desc: str = Field(max_length=1000, description="What happened, and what to do.")
    error_code: int = Field(description="1 for bad credentials, 2 for those of others, else the HTTP status.")


class TrainwaveErrorDetail(BaseModel):
    code: str
    message: str = Field(max_length=1000)


class TrainwaveError(BaseModel):
    """An error of the Trainwave dialect."""

    success: bool = False
    error: TrainwaveErrorDetail


class WorkspaceError(BaseModel):
    """An error of the workspace dialect."""

    error_code: str
    message: str = Field(max_length=1000)


class AitemsErrorDetail(BaseModel):
    errorCode: str
    message: str
    details: str = Field(max_length=1000)


class AitemsError(BaseModel):
    """An error of the AiTEMS dialect."""

    error: AitemsErrorDetail


_MODELS: tuple[type[BaseModel], ...] = (TaoError, TrainwaveError, WorkspaceError, AitemsError)

_TOO_MANY, _AWAY = HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE
_BODY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.INSUFFICIENT_STORAGE)
_EVERY = (
    *(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.NOT_IMPLEMENTED),
    *(_TOO_MANY, _AWAY),
)


def complete(app: FastAPI, open_paths: frozenset[str], dialect_of: dict[str, str]) -> None:
    """Make `app` serve a document that says every status that its routes answer with.

    `dialect_of` names the error model of a path by its start, the first that fits.
    """
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in _MODELS:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for path, operations in document["paths"].items():
            error = next(name for start, name in dialect_of.items() if path.startswith(start))
            for method, operation in operations.items():
                _complete(operation, method, path not in open_paths, error, is_page=path.startswith("/cli/"))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], method: str, closed: bool, error: str, *, is_page: bool) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own, which nothing here answers with
    statuses = list(_EVERY)
    if closed or "login" in operation["operationId"]:
        statuses.append(HTTPStatus.UNAUTHORIZED)
    if closed:
        statuses.append(HTTPStatus.FORBIDDEN)
    if method != "get":
        statuses += _BODY
    if method == "post":
        statuses.append(HTTPStatus.UNPROCESSABLE_ENTITY)
        parameters = operation.setdefault("parameters", [])
        if IDEMPOTENCY_PARAMETER not in parameters:
            parameters.append(IDEMPOTENCY_PARAMETER)
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    if is_page:
        content["text/html"] = {"schema": {"type": "string"}}
    for status in sorted(statuses):
        described: dict[str, Any] = {"description": status.phrase, "content": content}
        if status in (_TOO_MANY, _AWAY):
            described["headers"] = {
                "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds after which to try again."}
            }
        responses.setdefault(str(int(status)), described)

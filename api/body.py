"""Read request bodies by hand: after authentication, with limits, whatever the content type says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ..schemas.errors import InvalidInput, TooLarge
from .errors import invalid

M = TypeVar("M", bound=BaseModel)


def json_body(model: type[M], *, arrays: bool = False) -> Callable[[Request], Coroutine[Any, Any, M]]:
    """Return a dependency that gives the body as `model`; an empty body counts as `{}`.

    A body is one JSON object, or with `arrays` an array as well.

    FastAPI parses a declared body before it calls any dependency, which would answer strangers
    with 400 and 422 instead of 401.
    """

    async def read(request: Request) -> M:
        content = await read_limited(request, request.app.state.settings.body_max_bytes) or b"{}"
        _refuse_odd_json(content, (dict, list) if arrays else (dict,))
        try:
            return model.model_validate_json(content, strict=True)
        except ValidationError as error:
            raise invalid(error) from error

    return read


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI has to say about a body that `json_body` reads."""
    schema = model.model_json_schema(ref_template="{model}")
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"content": {"application/json": {"schema": whole}}}}


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a part of a schema with its references resolved: what a route adds cannot add components."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    rest = {name: _inlined(value, definitions) for name, value in part.items() if name != "$ref"}
    return {**_inlined(definitions[part["$ref"]], definitions), **rest} if "$ref" in part else rest


async def read_limited(request: Request, limit_bytes: int) -> bytes:
    """Return the body; TooLarge when it has more bytes."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit_bytes:
            raise TooLarge(f"The body has more than {limit_bytes} bytes.", hint="Send less.")
    return bytes(content)


def _refuse_odd_json(content: bytes, kinds: tuple[type, ...]) -> None:
    """Raise for what Python reads as JSON and others do not: NaN, infinities, half characters."""

    def refuse(word: str) -> None:
        raise InvalidInput(f"The body is not JSON: {word} is no JSON value.")

    try:
        value = json.loads(content, parse_constant=refuse)
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, float) and not math.isfinite(item):
                raise InvalidInput("The body holds a number that is too large.")
            if isinstance(item, str):
                item.encode()
            elif isinstance(item, dict):
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                stack += item
    except (ValueError, RecursionError) as error:
        raise InvalidInput("The body is not JSON.", hint="Send one JSON object in UTF-8.") from error
    if not isinstance(value, kinds):
        raise InvalidInput("The body is no JSON object.", hint="Send {...}.")

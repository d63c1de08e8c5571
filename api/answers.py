"""Say in the OpenAPI document what a route answers. Answers are built as dicts and not checked again when sent."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, with_config

#: For a TypedDict that has no keys but its own.
closed = with_config(ConfigDict(extra="forbid"))


def answers(model: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that answers with `model`."""
    return {status: {"model": model}}

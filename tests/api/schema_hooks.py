"""Loaded by Schemathesis: most ids that it makes up are replaced by ids of things that there are."""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

#: Ids of things, by the names that paths and queries have for them.
KNOWN: dict[str, list[str]] = json.loads(os.environ["TRAINYARD_FUZZ_IDS"])
#: Everything is below these, so nothing would be found with others.
ALWAYS = {"org_name", "user_id", "org"}


def _known(parameters: dict[str, Any] | None, method: str) -> dict[str, Any] | None:
    if not isinstance(parameters, dict):
        return parameters
    replaced = dict(parameters)
    for name, value in parameters.items():
        pool = KNOWN.get(name, [])
        # What was made up decides, so that a failing example fails again. Things are not deleted: others need them.
        choice = zlib.crc32(repr(value).encode("utf-8", "surrogatepass"))
        if pool and (name in ALWAYS or (method != "DELETE" and choice % 8)):
            replaced[name] = pool[choice % len(pool)]
    return replaced


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: dict[str, Any] | None) -> Any:
    return _known(path_parameters, context.operation.method.upper())


@schemathesis.hook
def map_query(context: schemathesis.HookContext, query: dict[str, Any] | None) -> Any:
    return _known(query, context.operation.method.upper())

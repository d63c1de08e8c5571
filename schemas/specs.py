"""Specs: the typed parameters of one action of one network, and their JSON schema.

A spec is a pydantic model. `parameter()` makes a field with everything the API serves about it:
default, bounds, enum, description, whether it is popular and whether a sweep may vary it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from .errors import SpecError

S = TypeVar("S", bound="Spec")

_MATH_COND = re.compile(r"(/ [1-9]\d*|\^ ([2-9]|[1-9]\d+))")
_DEPENDS_ON = re.compile(r"[<>]=? \w+(\.\w+)*")


class Spec(BaseModel):
    """Base of all specs and of their sections: strict types (`"5"` is no integer), JSON words only.

    Use `Literal` for enums and `list` for sequences. Unknown keys are ignored, see `parse_spec`.
    """

    model_config = ConfigDict(
        extra="ignore", strict=True, validate_default=True, allow_inf_nan=False, serialize_by_alias=True
    )


def parameter(
    default: Any = ...,
    *,
    description: str,
    title: str | None = None,
    popular: bool = False,
    automl: bool = False,
    automl_default: bool = False,
    search: tuple[float | None, float | None] = (None, None),
    log: bool = False,
    step: float | None = None,
    math_cond: str | None = None,
    depends_on: str | None = None,
    **bounds: Any,
) -> Any:
    """Return a spec field. `bounds` go to pydantic's `Field` (`ge`, `le`, `gt`, `lt`, `pattern`, ...).

    The others say what a sweep does with it, and are served under the names that the API documents
    know or `automl_*`; `sweeps.space` goes by them.

    Args:
        automl: A sweep may vary it.
        automl_default: A sweep varies it unless told otherwise.
        search: Where a sweep looks, ends included; None for the bound on that side.
        log: A sweep looks at orders of magnitude, so the lower end is above 0.
        step: A sweep looks only at multiples of this above the lower end.
        math_cond: `/ 8`: a multiple of 8. `^ 2`: a power of 2.
        depends_on: `>`, `>=`, `<` or `<=` and the dotted name of the parameter that bounds this one.

    Raises:
        ValueError: these contradict each other or are not written like that.
    """
    low, high = search
    if log and (step is not None or max(low or 0, bounds.get("ge", 0), bounds.get("gt", 0)) <= 0):
        raise ValueError("log has no step, and search or ge says what number above 0 it begins at")
    if math_cond is not None and not _MATH_COND.fullmatch(math_cond):
        raise ValueError(f"math_cond is '/ N' or '^ N', not {math_cond!r}")
    if depends_on is not None and not _DEPENDS_ON.fullmatch(depends_on):
        raise ValueError(f"depends_on is '> dotted.name' with one of > >= < <=, not {depends_on!r}")
    told = {
        "automl_minimum": low,
        "automl_maximum": high,
        "automl_log": log or None,
        "automl_step": step,
        "math_cond": math_cond,
        "depends_on": depends_on,
    }
    extra: dict[str, Any] = {
        "popular": popular,
        "automl_enabled": automl or automl_default,
        "automl_default": automl_default,
        **{name: value for name, value in told.items() if value is not None},
    }
    return Field(default, description=description, title=title, json_schema_extra=extra, **bounds)


def like(spec: type[Spec], name: str, default: Any = ..., **changes: Any) -> Any:
    """Return the field `name` of another spec, for one that says the same; `default` and `changes` are its own.

    `changes` are what the schema serves beside the bounds: title, description, popular, depends_on.
    """
    field = copy.deepcopy(spec.model_fields[name])
    if default is not ...:
        field.default = default
    for word in ("title", "description"):
        if word in changes:
            setattr(field, word, changes.pop(word))
    field.json_schema_extra = {**cast(dict[str, Any], field.json_schema_extra), **changes}
    return field


def section(factory: type[Spec], *, description: str = "", name: str | None = None) -> Any:
    """Return a field that holds a nested section of a spec with all its defaults.

    `name` is for sections whose name on the wire no field can have: `model_config` is pydantic's.
    """
    return Field(default_factory=factory, description=description, alias=name)


def words(model: type[Spec]) -> dict[str, FieldInfo]:
    """Return the parameters and sections of a spec or a section by their names on the wire."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def parse_spec(model: type[S], raw: object) -> S:
    """Return `raw`, a JSON object, as a spec.

    Single unknown keys are tolerated: clients of the API documents set `gpus` and the like at
    the top of every spec. An unknown top-level *section* is not: it belongs to another network
    and ignoring it would train with values that the user did not choose.

    Raises:
        SpecError: with the dotted path and the broken bound of every wrong value.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise SpecError(f"A spec is a JSON object, not {type(raw).__name__}.")
    known = set(words(model))
    foreign = sorted(k for k, v in raw.items() if isinstance(v, dict) and k not in known)
    if foreign:
        raise SpecError(
            f"Unknown section {', '.join(map(repr, foreign))} in the spec: it is of another network or action. "
            f"The sections here are {', '.join(sorted(known)) or 'none'}."
        )
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']} (got {_shorten(e['input'])})" for e in error.errors()
        )
        raise SpecError(f"The spec is not valid. {problems}.") from error


def _shorten(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def spec_schema(model: type[Spec]) -> dict[str, Any]:
    """Return the JSON schema of a spec as the API documents serve it.

    Nested `{type: object, properties, default}` per level, leaves with type, title, description,
    default, minimum, maximum, enum and what sweeps do with them (see `parameter`); lists `required`
    and `popular` per level; at the top `default`, the whole default spec, and
    `automl_default_parameters`, dotted names.
    """
    schema = _level(model)
    schema["default"] = model().model_dump(mode="json")
    schema["automl_default_parameters"] = [path for path, info in leaves(model) if _extra(info, "automl_default")]
    return schema


def leaves(model: type[Spec], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted path and field of every parameter of a spec."""
    for name, info in words(model).items():
        nested = _nested(info)
        if nested is not None:
            yield from leaves(nested, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def _nested(info: FieldInfo) -> type[Spec] | None:
    # why not all arguments: a list of specs is one parameter.
    options = get_args(info.annotation) if get_origin(info.annotation) in (Union, UnionType) else ()
    for candidate in (info.annotation, *options):
        if isinstance(candidate, type) and issubclass(candidate, Spec):
            return candidate
    return None


def _extra(info: FieldInfo, key: str) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(key))


def _level(model: type[Spec]) -> dict[str, Any]:
    plain = model.model_json_schema()
    definitions = plain.get("$defs", {})
    properties: dict[str, Any] = {}
    for name, info in words(model).items():
        nested = _nested(info)
        if nested is not None:
            properties[name] = {**_level(nested), "default": nested().model_dump(mode="json")}
            if info.description:
                properties[name]["description"] = info.description
        else:
            properties[name] = _leaf(plain["properties"][name], definitions)
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name, info in words(model).items() if info.is_required()],
        "popular": [name for name, info in words(model).items() if _extra(info, "popular")],
    }


def _leaf(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return a leaf without `$ref`, `anyOf: [X, null]` and our own marks."""
    leaf = {k: v for k, v in schema.items() if k not in {"popular", "automl_default"}}
    if "$ref" in leaf:
        leaf = {**definitions[leaf.pop("$ref").rsplit("/", 1)[1]], **leaf}
    if "$ref" in leaf.get("items", {}):
        leaf["items"] = _leaf(leaf["items"], definitions)
    if leaf.get("type") == "object" and "properties" in leaf:
        leaf["properties"] = {name: _leaf(inner, definitions) for name, inner in leaf["properties"].items()}
    if "anyOf" in leaf:
        options = [o for o in leaf.pop("anyOf") if o.get("type") != "null"]
        if len(options) == 1:
            leaf = {**_leaf(options[0], definitions), **leaf, "nullable": True}
        else:
            leaf["anyOf"] = options
    return leaf

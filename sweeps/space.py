"""The space that a sweep searches: which parameters of a spec vary, between what, and the spec of a point in it.

All that is known about a parameter is what its JSON schema serves (`schemas.specs`), so clients see what a sweep does.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import islice
from typing import Any

from optuna.distributions import BaseDistribution

from ..schemas.errors import InvalidInput, SpecError
from ..schemas.specs import Spec, parse_spec, spec_schema
from ..schemas.sweeps import Range, SweepSettings
from .offers import Offer, build_parameter, read_offers
from .parameters import Number, Parameter, Value, show

#: A grid has at most so many points, as many as a sweep can have trials.
GRID_LIMIT = 100_000

#: Choices and ends of ranges in a space; each of them is tried out when it is built.
_ENDS_LIMIT = 1000

#: Characters of a list of names, and names in it. The API documents allow 5000 characters.
_NAMES_CHARACTERS, _NAMES_COUNT = 5000, 500

_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a sweep varies of a spec. A point is a value for each parameter by dotted name."""

    spec: Mapping[str, object]
    """As the user gave it."""
    values: Mapping[str, object]
    """What every parameter is in it, by dotted name, with defaults."""
    parameters: tuple[Parameter, ...]
    """In the order of the spec."""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna draws from, by dotted name."""
        return {parameter.path: parameter.distribution for parameter in self.parameters}

    def defaults(self) -> dict[str, Value]:
        """Return the point that is the user's spec, or the nearest one when the spec lies outside of the space."""
        return self.effective({p.path: p.start(self.values[p.path]) for p in self.parameters})

    def effective(self, params: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values that are used for a drawn point: those nearest to it that keep all conditions.

        The effective values of effective values are themselves.

        Raises:
            ValueError: the point is of another space.
        """
        if params.keys() != {parameter.path for parameter in self.parameters}:
            raise ValueError(f"not a point of this space: {sorted(params)}")
        values: dict[str, Any] = dict(self.values)
        for parameter in self._bounding_first():
            values[parameter.path] = parameter.settle(params[parameter.path], values)
        return {parameter.path: values[parameter.path] for parameter in self.parameters}

    def apply(self, params: Mapping[str, Value]) -> dict[str, object]:
        """Return the user's spec with the effective values of a point; the spec itself stays as it is."""
        spec: dict[str, Any] = copy.deepcopy(dict(self.spec))
        for path, value in self.effective(params).items():
            set_value(spec, path, value)
        return spec

    def grid(self) -> dict[str, list[Value]]:
        """Return the values of a grid by dotted name: all choices, steps and powers, `GRID_POINTS` of other numbers.

        They do not depend on the number of trials, so a sweep that is extended goes on in the same grid; one with
        fewer trials than points tries some of them.

        Raises:
            InvalidInput: there are more than `GRID_LIMIT` points.
        """
        grid = {p.path: list[Value](islice(p.grid(), GRID_LIMIT + 1)) for p in self.parameters}
        if math.prod(map(len, grid.values())) > GRID_LIMIT:
            sizes = ", ".join(f"{len(values)} of {path}" for path, values in grid.items())
            raise InvalidInput(
                f"The grid has more than {GRID_LIMIT} points: {sizes}.",
                hint="Remove parameters, give larger steps or fewer choices, or use another algorithm.",
            )
        return grid

    def _bounding_first(self) -> Iterator[Parameter]:
        by_path = {parameter.path: parameter for parameter in self.parameters}
        before = {path: [parameter.bounded_by] for path, parameter in by_path.items()}
        for path in TopologicalSorter(before).static_order():
            if path in by_path:
                yield by_path[path]


def build_space(
    model: type[Spec], spec: Mapping[str, object], settings: SweepSettings, *, reserved: Collection[str] = ()
) -> Space:
    """Return the space of a sweep over the user's `spec` of `model`.

    It has the parameters that the spec varies by itself, those in `add` and `ranges`, and not those in `remove`.
    A parameter of the first kind that has no choices and not both limits keeps its value. `reserved` are parameters
    that the sweep sets itself.

    Raises:
        InvalidInput: a name is unknown or not offered, a range contradicts itself or the spec, nothing is left to
            vary, or an end of a range makes a spec that is not valid.
    """
    schema = spec_schema(model)
    offers = {offer.path: offer for offer in read_offers(schema)}
    dump = parse_spec(model, dict(spec)).model_dump(mode="json")
    values = {path: value_at(dump, path) for path in offers}
    found: dict[str, Parameter] = {}
    asked = {*settings.add, *settings.ranges}
    for path in _chosen(offers, schema["automl_default_parameters"], settings, reserved):
        parameter = build_parameter(offers[path], settings.ranges.get(path, Range()), path in asked)
        if parameter is not None:
            found[path] = parameter
    if not found:
        raise InvalidInput("The sweep has nothing to vary.", hint=_add_some(offers, settings, reserved))
    _keep_conditions(found, offers, values)
    space = Space(spec=spec, values=values, parameters=tuple(found.values()))
    _check_ends(model, space)
    return space


def parse_names(text: str) -> list[str]:
    """Return the names in a Python list as clients send it, `['a', 'b']` or `["a"]`; nothing at all is no names.

    Raises:
        InvalidInput: it is no list of texts, or too long.
    """
    if not text.strip():
        return []
    hint = "Send dotted names of parameters like ['train.train_config.optimizer.lr']."
    if len(text) > _NAMES_CHARACTERS:
        raise InvalidInput(f"A list of parameters has at most {_NAMES_CHARACTERS} characters.", hint=hint)
    try:
        names = None if "\\" in text else ast.literal_eval(text.strip())
    # why so many: text that is nested deeply ends the parser by one of the last two.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput(f"Not a list of parameters: {text[:60]!r}.", hint=hint)
    if len(names) > _NAMES_COUNT:
        raise InvalidInput(f"A list of parameters has at most {_NAMES_COUNT} names.", hint=hint)
    return list(dict.fromkeys(names))


def _chosen(
    offers: Mapping[str, Offer], default: Collection[str], settings: SweepSettings, reserved: Collection[str]
) -> list[str]:
    """Return the names of the parameters that the user wants to vary, in the order of the spec."""
    asked = [*settings.add, *settings.ranges]
    for path in (*asked, *settings.remove):
        if path not in offers:
            raise InvalidInput(f"The spec has no parameter {path[:100]!r}.", hint=_add_some(offers, settings, reserved))
    for path in asked:
        if path in reserved:
            raise InvalidInput(f"A sweep cannot vary {path}: it sets it itself.")
        if not offers[path].is_offered and not settings.override_disabled:
            raise InvalidInput(
                f"The spec does not offer {path} to sweeps.",
                hint="Set override_disabled (override_automl_disabled_params in the API documents) to vary it all the "
                f"same. {_add_some(offers, settings, reserved)}",
            )
    for path in settings.remove:
        if path in settings.ranges:
            raise InvalidInput(f"{path} is to be removed and has a range.", hint="Take one of the two back.")
    wanted = {*default, *asked}.difference(settings.remove, reserved)
    return [path for path in offers if path in wanted]


def _add_some(offers: Mapping[str, Offer], settings: SweepSettings, reserved: Collection[str]) -> str:
    names = [
        path
        for path, offer in offers.items()
        if (offer.is_offered or settings.override_disabled) and path not in reserved
    ]
    return f"A sweep may vary {', '.join(names) or 'nothing of it'}."


def _keep_conditions(found: dict[str, Parameter], offers: Mapping[str, Offer], values: Mapping[str, object]) -> None:
    """Narrow the numbers that bound each other so that, whatever is drawn for one, there is a value for the other.

    Choices that the user lists are taken as they are.
    """
    conditions = [(offer.path, *offer.depends_on) for offer in offers.values() if offer.depends_on is not None]
    # why so often: what one condition narrows may be bound by the next.
    for _ in conditions:
        for path, comparison, other in conditions:
            _narrow(found, values, path, comparison, other)
            _narrow(found, values, other, _MIRRORED[comparison], path)


def _narrow(found: dict[str, Parameter], values: Mapping[str, object], path: str, comparison: str, other: str) -> None:
    number, bounding = found.get(path), found.get(other)
    numbers = bounding.extremes() if bounding is not None else (values[other],)
    ends = sorted(value for value in numbers if isinstance(value, int | float))
    if not isinstance(number, Number) or not ends:
        return
    loosest, strictest = (ends[0], ends[-1]) if comparison.startswith(">") else (ends[-1], ends[0])
    narrowed = number.bound(comparison, loosest)
    # why not of a Number: it is narrowed in its turn.
    last = narrowed if isinstance(bounding, Number) else number.bound(comparison, strictest)
    for end, rest in ((loosest, narrowed), (strictest, last)):
        if rest.low > rest.high:
            raise InvalidInput(
                f"{path} is searched from {show(number.low)} to {show(number.high)}, and nothing there is "
                f"{comparison} {other}, which is {show(end)}.",
                hint="Give other ranges, or remove one of the two.",
            )
    found[path] = narrowed


def _check_ends(model: type[Spec], space: Space) -> None:
    """Raise InvalidInput when an end of a range or a choice makes a spec that is not valid."""
    ends = sum(len(parameter.extremes()) for parameter in space.parameters)
    if ends > _ENDS_LIMIT:
        raise InvalidInput(f"The ranges of a sweep have {ends} choices, and at most {_ENDS_LIMIT} are looked at.")
    start = space.defaults()
    for parameter in space.parameters:
        for value in parameter.extremes():
            try:
                parse_spec(model, space.apply({**start, parameter.path: value}))
            except SpecError as error:
                raise InvalidInput(
                    f"A sweep would try {value!r} for {parameter.path}. {error.message}",
                    hint=f"Give another ranges.{parameter.path}, or remove the parameter.",
                ) from error


def value_at(dump: Mapping[str, Any], path: str) -> Any:
    """Return a value of a spec by its dotted name; None also when its section is not there."""
    value: Any = dump
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def set_value(spec: dict[str, Any], path: str, value: object) -> None:
    """Set a value of a spec by its dotted name, making the sections that are not there."""
    *sections, name = path.split(".")
    for section in sections:
        if not isinstance(spec.get(section), dict):
            spec[section] = {}
        spec = spec[section]
    spec[name] = value

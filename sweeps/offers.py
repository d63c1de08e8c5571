"""What a spec offers to sweeps, as its JSON schema says it, and what a user's range makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..schemas.errors import InvalidInput
from ..schemas.sweeps import Range
from .parameters import Choice, Lattice, Number, Parameter, Value, decimal, show

#: More steps than this are no steps.
_STEPS_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound of a parameter."""

    value: float
    is_lower: bool
    is_open: bool = False

    def excludes(self, value: float) -> bool:
        beyond = value < self.value if self.is_lower else value > self.value
        return beyond or (self.is_open and value == self.value)

    def __str__(self) -> str:
        words = {(True, False): "at least", (True, True): "above", (False, False): "at most", (False, True): "below"}
        return f"{words[self.is_lower, self.is_open]} {show(self.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the schema of a spec says about one parameter."""

    path: str
    type: str
    """Of JSON."""
    is_offered: bool
    choices: tuple[Value, ...]
    low: Limit | None
    high: Limit | None
    search_low: float | None
    """Where a sweep begins to look; None: at `low`."""
    search_high: float | None
    log: bool
    step: float | None
    multiple_of: float | None
    base: int | None
    """It is a power of this."""
    depends_on: tuple[str, str] | None
    """Comparison and dotted name of the parameter that bounds it."""


def read_offers(schema: Mapping[str, Any], prefix: str = "") -> Iterator[Offer]:
    """Yield what a schema of `schemas.specs.spec_schema` says about each parameter, in its order."""
    for name, leaf in schema["properties"].items():
        if "properties" in leaf:
            yield from read_offers(leaf, f"{prefix}{name}.")
        else:
            yield _offer(f"{prefix}{name}", leaf)


def _offer(path: str, leaf: Mapping[str, Any]) -> Offer:
    sign, _, number = leaf.get("math_cond", "").partition(" ")
    comparison, _, other = leaf.get("depends_on", "").partition(" ")
    return Offer(
        path=path,
        type=leaf.get("type", "mixture of types"),
        is_offered=leaf["automl_enabled"],
        choices=_choices(leaf),
        low=_limit(leaf, "minimum", "exclusiveMinimum", is_lower=True),
        high=_limit(leaf, "maximum", "exclusiveMaximum", is_lower=False),
        search_low=leaf.get("automl_minimum"),
        search_high=leaf.get("automl_maximum"),
        log=leaf.get("automl_log", False),
        step=leaf.get("automl_step"),
        multiple_of=float(number) if sign == "/" else leaf.get("multipleOf"),
        base=int(number) if sign == "^" else None,
        depends_on=(comparison, other) if comparison else None,
    )


def _choices(leaf: Mapping[str, Any]) -> tuple[Value, ...]:
    if leaf.get("type") == "boolean":
        return (False, True)
    return (leaf["const"],) if "const" in leaf else tuple(leaf.get("enum", ()))


def _limit(leaf: Mapping[str, Any], name: str, open_name: str, *, is_lower: bool) -> Limit | None:
    if open_name in leaf:
        return Limit(leaf[open_name], is_lower, is_open=True)
    return Limit(leaf[name], is_lower) if name in leaf else None


def build_parameter(offer: Offer, wish: Range, is_asked: bool) -> Parameter | None:
    """Return the parameter that the user's range makes of an offer, None when it has no choices and not both limits.

    Raises:
        InvalidInput: the range contradicts itself or the offer, or there is none although `is_asked` for.
    """
    path = offer.path
    has_ends = wish.low is not None or wish.high is not None or wish.log is not None or wish.step is not None
    if wish.choices is not None:
        if has_ends:
            raise InvalidInput(f"ranges.{path} has choices and limits.", hint="Give one of the two.")
        is_real = offer.type == "number"
        choices = [float(c) if is_real and isinstance(c, int) and not isinstance(c, bool) else c for c in wish.choices]
        return Choice(path=path, choices=tuple(dict.fromkeys(choices)))
    if offer.choices:
        if has_ends:
            words = ", ".join(map(repr, offer.choices))
            raise InvalidInput(f"ranges.{path}: the parameter has no limits.", hint=f"Give choices among {words}.")
        return Choice(path=path, choices=offer.choices)
    if offer.type in ("integer", "number"):
        return _number(offer, wish, is_asked)
    if is_asked:
        raise InvalidInput(
            f"A sweep cannot vary {path}: it is a {offer.type} without limits or known values.",
            hint=f"Give ranges.{path}.choices, or leave it out.",
        )
    return None


def _number(offer: Offer, wish: Range, is_asked: bool) -> Number | None:
    path, is_whole = offer.path, offer.type == "integer"
    low = _end(offer, f"ranges.{path}.low", wish.low, offer.search_low, offer.low, is_lower=True)
    high = _end(offer, f"ranges.{path}.high", wish.high, offer.search_high, offer.high, is_lower=False)
    if low is None or high is None:
        if not is_asked:
            return None
        raise InvalidInput(
            f"A sweep cannot vary {path}: it has no {'lower' if low is None else 'upper'} limit.",
            hint=f"Give ranges.{path} low and high, or choices.",
        )
    if low.value >= high.value or math.isinf(high.value - low.value):
        allowed = " and ".join(str(limit) for limit in (offer.low, offer.high) if limit is not None)
        raise InvalidInput(
            f"ranges.{path}: from {show(low.value)} to {show(high.value)} is no range.",
            hint="Give low and high" + (f"; the parameter is {allowed}." if allowed else "."),
        )
    step = offer.step if wish.step is None and not wish.log else wish.step
    log = wish.log if wish.log is not None else step is None and (offer.log or offer.base is not None)
    if log and step is not None:
        raise InvalidInput(f"ranges.{path}: log has no steps.", hint="Give log or step.")
    if step is not None and offer.base is not None:
        raise InvalidInput(f"ranges.{path}.step: the parameter is a power of {offer.base}.", hint="Leave step out.")
    if (log or offer.base is not None) and low.value <= 0:
        raise InvalidInput(
            f"ranges.{path}: orders of magnitude cannot begin at {show(low.value)}.",
            hint=f"Give ranges.{path}.low above 0.",
        )
    lattice, first, last = _lattice(offer, low, high, step)
    return Number(
        path=path,
        low=first,
        high=last,
        log=log,
        is_whole=is_whole,
        is_listed=step is not None or offer.base is not None,
        lattice=lattice,
        depends_on=offer.depends_on,
    )


def _end(
    offer: Offer, where: str, wished: float | None, searched: float | None, bound: Limit | None, *, is_lower: bool
) -> Limit | None:
    """Return an end of the range: the user's, else the one that the spec gives to sweeps, else its bound."""
    if wished is None:
        return bound if searched is None else Limit(searched, is_lower)
    for limit in (offer.low, offer.high):
        if limit is not None and limit.excludes(wished):
            raise InvalidInput(f"{where} is {show(wished)}, and the parameter is {limit}.")
    if offer.type == "integer" and not wished.is_integer():
        raise InvalidInput(f"{where} is {show(wished)}, and the parameter is a whole number.")
    return Limit(wished, is_lower)


def _lattice(offer: Offer, low: Limit, high: Limit, step: float | None) -> tuple[Lattice, float, float]:
    """Return the lattice of a parameter and its first and last number in the range."""
    unit = offer.multiple_of if offer.multiple_of is not None else 1 if offer.type == "integer" else None
    lattice = Lattice(step=None if unit is None else decimal(unit), base=offer.base)
    first = lattice.up(math.nextafter(low.value, math.inf) if low.is_open else low.value)
    last = lattice.down(math.nextafter(high.value, -math.inf) if high.is_open else high.value)
    if step is not None:
        if unit is not None and decimal(step) % decimal(unit):
            raise InvalidInput(f"ranges.{offer.path}.step is {show(step)}, and is a multiple of {show(unit)}.")
        if (last - first) / step > _STEPS_LIMIT:
            raise InvalidInput(f"ranges.{offer.path}.step is too small: {show(step)}.", hint="Leave it out.")
        if low.is_open and unit is None:
            # why: the first number above an open limit is one that nobody has in mind.
            first = float(decimal(low.value) + decimal(step))
        lattice = Lattice(step=decimal(step), origin=decimal(first))
        last = lattice.down(last)
    if first >= last:
        raise InvalidInput(
            f"ranges.{offer.path}: from {show(low.value)} to {show(high.value)} there are not two values of it.",
            hint="Give a wider range or a smaller step.",
        )
    return lattice, first, last

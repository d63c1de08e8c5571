"""How one parameter of a sweep is drawn: choices, and numbers between two limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = str | int | float | bool

#: Points in a grid of a number that has no steps, ends included.
GRID_POINTS = 5


def decimal(value: float) -> Decimal:
    """Return the number that is meant by a float: 0.1 is a tenth."""
    return Decimal(str(float(value)))


def show(value: float) -> str:
    """Return a number as people write it."""
    return f"{value:.12g}"


@dataclass(frozen=True, slots=True)
class Lattice:
    """The numbers that there are: all, `origin` plus multiples of `step`, or powers of `base`. Decimals, so exact."""

    step: Decimal | None = None
    origin: Decimal = Decimal(0)
    base: int | None = None

    def up(self, value: float) -> float:
        """Return the smallest one that is not below `value`."""
        if self.base is not None:
            return min(power for power in self._powers(value) if power >= value) if value > 0 else 0.0
        return self._multiple(value, ROUND_CEILING)

    def down(self, value: float) -> float:
        """Return the largest one that is not above `value`."""
        if self.base is not None:
            return max(power for power in self._powers(value) if power <= value) if value > 0 else -math.inf
        return self._multiple(value, ROUND_FLOOR)

    def _multiple(self, value: float, rounding: str) -> float:
        if self.step is None:
            return value
        number = ((decimal(value) - self.origin) / self.step).to_integral_value(rounding)
        return float(self.origin + number * self.step)

    def _powers(self, value: float) -> list[float]:
        assert self.base is not None
        # why its neighbours: the logarithm of a power is not always whole in floats.
        exponent = math.floor(math.log(value, self.base))
        return [float(self.base) ** (exponent + i) for i in (-1, 0, 1, 2)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A parameter that takes one of some values."""

    path: str
    choices: tuple[Value, ...]

    @property
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(self.choices)

    def start(self, value: object) -> Value:
        """Return the choice that stands for `value` of the spec: itself or, when it is none, the first."""
        return next((choice for choice in self.choices if choice == value), self.choices[0])

    @property
    def bounded_by(self) -> None:
        return None

    def settle(self, value: Value, values: Mapping[str, object]) -> Value:
        return value

    def grid(self) -> Iterator[Value]:
        return iter(self.choices)

    def extremes(self) -> tuple[Value, ...]:
        return self.choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A parameter that takes numbers of its lattice from `low` to `high`, both included and of the lattice."""

    path: str
    low: float
    high: float
    log: bool
    """It is looked at by orders of magnitude; `low` is above 0."""
    is_whole: bool
    is_listed: bool
    """A grid has all of its values."""
    lattice: Lattice
    depends_on: tuple[str, str] | None
    """Comparison and dotted name of the parameter that this one is bound by."""

    @property
    def distribution(self) -> BaseDistribution:
        # why not with log: Optuna has no steps of orders of magnitude; `nearest` brings them back to the lattice.
        step = None if self.log or self.lattice.step is None else self.lattice.step
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=1 if step is None else int(step))
        return FloatDistribution(self.low, self.high, log=self.log, step=None if step is None else float(step))

    def nearest(self, value: float) -> int | float:
        """Return the value of this parameter that is nearest to `value`, by orders of magnitude where it is so."""
        value = min(max(float(value), self.low), self.high)
        below, above = self.lattice.down(value), self.lattice.up(value)
        is_lower = value * value <= below * above if self.log else value - below <= above - value
        found = below if is_lower else above
        return int(found) if self.is_whole else found

    def start(self, value: object) -> int | float:
        """Return what stands for `value` of the spec: the nearest, or the middle when the spec has no number there."""
        return self.nearest(value) if isinstance(value, int | float) else self._spread(0.5)

    @property
    def bounded_by(self) -> str | None:
        """Dotted name of the parameter that bounds this one."""
        return self.depends_on[1] if self.depends_on is not None else None

    def settle(self, value: Value, values: Mapping[str, object]) -> Value:
        """Return what is used for a drawn `value`, when parameters are as in `values` by dotted name."""
        allowed = self
        if self.depends_on is not None:
            comparison, other = self.depends_on
            bounding = values[other]
            if isinstance(bounding, int | float):
                allowed = self.bound(comparison, bounding)
        return allowed.nearest(float(value))

    def bound(self, comparison: str, other: float) -> Number:
        """Return this parameter with only those of its values that compare so with `other`; `low` > `high`: none."""
        match comparison:
            case ">":
                return replace(self, low=max(self.low, self.lattice.up(math.nextafter(other, math.inf))))
            case ">=":
                return replace(self, low=max(self.low, self.lattice.up(other)))
            case "<":
                return replace(self, high=min(self.high, self.lattice.down(math.nextafter(other, -math.inf))))
            case _:
                return replace(self, high=min(self.high, self.lattice.down(other)))

    def grid(self) -> Iterator[int | float]:
        """Yield its values in a grid, rising: all when it has steps or powers, else `GRID_POINTS` spread evenly."""
        if not self.is_listed:
            yield from dict.fromkeys(self._spread(i / (GRID_POINTS - 1)) for i in range(GRID_POINTS))
            return
        value = self.low
        while value <= self.high:
            yield self.nearest(value)
            value = self.lattice.up(math.nextafter(value, math.inf))

    def extremes(self) -> tuple[Value, ...]:
        return self.nearest(self.low), self.nearest(self.high)

    def _spread(self, share: float) -> int | float:
        value = self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share
        # why as text: 0.15 and not 0.15000000000000002.
        return self.nearest(float(show(value)))


Parameter = Choice | Number

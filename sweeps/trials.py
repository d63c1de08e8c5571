"""The trials of a sweep as its decisions see them. Everything that is known about a trial is in its row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..schemas.sweeps import TrialStatus

ACTIVE: frozenset[TrialStatus] = frozenset({"pending", "running"})
ENDED: frozenset[TrialStatus] = frozenset({"success", "failure", "pruned"})


@dataclass(frozen=True, slots=True)
class Metric:
    """What is optimised."""

    name: str
    maximize: bool

    def better(self, value: float, than: float) -> bool:
        return value > than if self.maximize else value < than


@dataclass(slots=True, kw_only=True)
class Trial:
    """One point of the search space and how far its training is."""

    number: int
    params: dict[str, Any]
    """By dotted name of the parameter."""
    horizon: int
    """Epochs that its schedule of learning rates is made for."""
    asked: int
    """Epochs after which it is looked at next."""
    bracket: int | None = None
    values: dict[int, list[float]] = field(default_factory=dict)
    """Epochs that were reached -> the best value of each metric until then."""
    status: TrialStatus = "pending"
    run_id: str | None = None
    """Its flow run."""
    message: str = ""
    seconds: float = 0.0
    best_epoch: int | None = None
    results: dict[str, float] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Epochs that it has reached."""
        return max(self.values, default=0)

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def dump(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def load(cls, raw: dict[str, Any]) -> Trial:
        return cls(**{**raw, "values": {int(epochs): values for epochs, values in raw["values"].items()}})


def ranked(trials: Sequence[Trial], metric: Metric, epochs: int | None = None) -> list[Trial]:
    """Return the trials that have a value, the best first; of equal ones the earlier.

    `epochs` compares what they had reached then, else the latest values count.
    """
    found = [(value, trial) for trial in trials if (value := value_at(trial, epochs)) is not None]
    sign = -1 if metric.maximize else 1
    return [trial for _, trial in sorted(found, key=lambda pair: (sign * pair[0], pair[1].number))]


def value_at(trial: Trial, epochs: int | None = None) -> float | None:
    """Return the first metric after `epochs`, the latest without; None if there is none or it is no number.

    A trial that has ended by itself before is what it was at its end.
    """
    values = trial.values.get(trial.done if epochs is None else epochs)
    if values is None and trial.status == "success":
        values = trial.values.get(trial.done)
    return values[0] if values and math.isfinite(values[0]) else None

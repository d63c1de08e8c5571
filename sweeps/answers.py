"""What a trial has reached, read from the record that its training left behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..schemas.results import JobResult
from .trials import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The best epoch of a trial so far."""

    values: list[float]
    """One for each metric, in their order."""
    results: dict[str, float]
    """All that was measured in that epoch."""
    best_epoch: int
    epochs: int
    """Epochs that are done."""
    seconds: float
    """What they took."""


def read_answer(result: JobResult, metrics: Sequence[Metric]) -> Answer | None:
    """Return what a training has reached; None if it never measured the metrics.

    Several metrics are those of one epoch, the best in the first of them.
    """
    measured = [entry for entry in result.history if all(metric.name in entry.metrics for metric in metrics)]
    if not measured:
        return None
    first = metrics[0]
    best = measured[0]
    for entry in measured[1:]:
        if first.better(entry.metrics[first.name], best.metrics[first.name]):
            best = entry
    # Of epochs that are equal in it, the weights are kept of the one with the smaller loss.
    kept = next((entry for entry in measured if entry.epoch == result.best_epoch), best)
    if kept.metrics[first.name] == best.metrics[first.name]:
        best = kept
    return Answer(
        values=[best.metrics[metric.name] for metric in metrics],
        results=best.metrics,
        best_epoch=best.epoch,
        epochs=result.latest_epoch or max(entry.epoch for entry in result.history),
        seconds=sum(entry.seconds for entry in result.history),
    )

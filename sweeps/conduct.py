"""The loop of a search: start what is next, wait for answers, until nothing is left to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..schemas.sweeps import SweepSettings
from .answers import Answer
from .search import Search
from .trials import Trial

#: How long the loop waits for news before it looks whether it is to stop.
WAIT_S = 0.5

#: When nobody has said how many trials may run at once, one stands in the queue for the next free slot, and another one
#: for each so many that run: several may end in the same moment.
AHEAD_SHARE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What has become of a trial that was started: an answer or the reason why there is none."""

    trial: Trial
    answer: Answer | None = None
    reason: str = ""
    ended: bool = False
    """It will not train any further, however many epochs it was asked for."""


class Runner(Protocol):
    """Whoever trains."""

    def start(self, trial: Trial) -> None:
        """Begin to train a trial until `trial.asked` epochs, or let it go on."""

    def wait(self, timeout_s: float) -> Iterable[Report]:
        """Return what has happened, as soon as something has."""

    def end(self, trial: Trial) -> None:
        """Take note that a trial will not go on."""

    @property
    def waiting(self) -> int:
        """Trials that were started and that nobody has begun."""


@dataclass
class Delays:
    """For how long slots had nothing to do because of the loop, in seconds, one number for each that became free.

    From the news that a trial has ended to the start of the next; 0 where one stood in the queue already.
    """

    seconds: list[float] = field(default_factory=list)


def conduct(
    search: Search,
    runner: Runner,
    *,
    is_stopping: Callable[[], bool],
    tell: Callable[[], None],
) -> Delays:
    """Run a search to its end, or until it is to stop; `tell` is called after every change."""
    delays = Delays()
    free_at: list[float] = []
    while not is_stopping():
        while _has_room(search, runner) and (trial := search.next()) is not None:
            runner.start(trial)
            if free_at:
                delays.seconds.append(time.monotonic() - free_at.pop(0))
        for loser in search.losers():
            runner.end(loser)
        tell()
        if not search.active:
            break
        ready, has_news = runner.waiting, False
        for report in runner.wait(WAIT_S):
            if ready > 0:
                ready -= 1
                delays.seconds.append(0.0)
            else:
                free_at.append(time.monotonic())
            _take(search, report)
            has_news = True
        if has_news:
            search.remember_time()  # here too: nobody does it for a process that is killed
    search.remember_time()
    return delays


def _has_room(search: Search, runner: Runner) -> bool:
    settings: SweepSettings = search.settings
    if settings.max_concurrent is not None:
        return len(search.active) < settings.max_concurrent
    running = len(search.active) - runner.waiting
    return runner.waiting < 1 + running // AHEAD_SHARE


def _take(search: Search, report: Report) -> None:
    trial, answer = report.trial, report.answer
    if answer is None:
        search.failed(trial, report.reason)
        return
    if report.ended:
        # It has stopped by itself: what it has reached stands for all epochs that it could have had.
        trial.asked = trial.horizon
    search.answered(
        trial,
        answer.values,
        results=answer.results,
        best_epoch=answer.best_epoch,
        seconds=answer.seconds,
    )

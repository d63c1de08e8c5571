"""Who trains next and for how long. A scheduler has no memory: it decides from the rows of all trials.

So a controller that was killed decides as the one before would have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from ..schemas.sweeps import BY_RUNGS, SweepSettings
from .brackets import Rung, halving_rungs, hyperband_brackets
from .trials import Metric, Trial, ranked


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Train a trial until it has seen `epochs`."""

    trial: Trial | None
    """None for a new one."""
    epochs: int
    horizon: int
    bracket: int | None = None


class Scheduler(Protocol):
    """The rule by which trials are started, go on and end."""

    def next(self, trials: Sequence[Trial]) -> Step | None:
        """Return what to start now; None while only waiting helps, or when there is nothing left to do."""

    def losers(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return paused trials that will never go on."""

    def epochs_left(self, trials: Sequence[Trial]) -> int:
        """Return how many epochs nobody has begun yet, as far as is known."""


class FullLength:
    """Every trial trains for all its epochs."""

    def __init__(self, max_trials: int, epochs: int) -> None:
        self._max_trials = max_trials
        self._epochs = epochs

    def next(self, trials: Sequence[Trial]) -> Step | None:
        if len(trials) >= self._max_trials:
            return None
        return Step(trial=None, epochs=self._epochs, horizon=self._epochs)

    def losers(self, trials: Sequence[Trial]) -> list[Trial]:
        return []

    def epochs_left(self, trials: Sequence[Trial]) -> int:
        return max(0, self._max_trials - len(trials)) * self._epochs


class Hyperband:
    """Brackets of successive halving (Li et al. 2018); several brackets run at once.

    `rounds` are values of R: a sweep that was extended plays the brackets of each.
    """

    def __init__(self, rounds: Sequence[int], eta: int, multiplier: int, metric: Metric) -> None:
        self._brackets = [bracket for r in rounds for bracket in hyperband_brackets(r, eta, multiplier)]
        self._metric = metric

    def next(self, trials: Sequence[Trial]) -> Step | None:
        of_bracket = self._of_bracket(trials)
        for number, bracket in enumerate(self._brackets):
            horizon = bracket[-1].epochs
            for rung, members in self._played(bracket, of_bracket[number]):
                for trial in members:
                    if trial.status == "paused" and trial.asked < rung.epochs:
                        return Step(trial=trial, epochs=rung.epochs, horizon=horizon, bracket=number)
        for number, bracket in enumerate(self._brackets):
            if len(of_bracket[number]) < bracket[0].trials:
                return Step(trial=None, epochs=bracket[0].epochs, horizon=bracket[-1].epochs, bracket=number)
        return None

    def losers(self, trials: Sequence[Trial]) -> list[Trial]:
        of_bracket = self._of_bracket(trials)
        lost = []
        for number, bracket in enumerate(self._brackets):
            played = list(self._played(bracket, of_bracket[number]))
            winners = {trial.number for trial in played[-1][1]}
            lost += [t for t in of_bracket[number] if t.status == "paused" and t.number not in winners]
        return lost

    def epochs_left(self, trials: Sequence[Trial]) -> int:
        of_bracket = self._of_bracket(trials)
        left = 0
        for number, bracket in enumerate(self._brackets):
            members = of_bracket[number]
            if len(members) == bracket[0].trials and all(trial.has_ended for trial in members):
                continue  # those that failed have left places that nobody takes
            before = 0
            for rung in bracket:
                begun = sum(trial.asked >= rung.epochs for trial in members)
                left += max(0, rung.trials - begun) * (rung.epochs - before)
                before = rung.epochs
        return left

    def _of_bracket(self, trials: Sequence[Trial]) -> list[list[Trial]]:
        found: list[list[Trial]] = [[] for _ in self._brackets]
        for trial in trials:
            if trial.bracket is not None and trial.bracket < len(found):
                found[trial.bracket].append(trial)
        return found

    def _played(self, bracket: Sequence[Rung], trials: Sequence[Trial]) -> list[tuple[Rung, list[Trial]]]:
        """Return the rungs that are open, each with those that train for it: the next opens when all have answered."""
        members = list(trials)
        played = [(bracket[0], members)]
        if len(trials) < bracket[0].trials:
            return played
        for rung, following in pairwise(bracket):
            if any(not trial.has_ended and rung.epochs not in trial.values for trial in members):
                break
            members = ranked(members, self._metric, rung.epochs)[: following.trials]
            played.append((following, members))
        return played


class Asha:
    """Asynchronous successive halving (Li et al. 2020, MLSys): nobody waits for a rung to fill."""

    def __init__(self, max_trials: int, rungs: Sequence[int], eta: int, metric: Metric) -> None:
        self._max_trials = max_trials
        self._rungs = rungs
        self._eta = eta
        self._metric = metric

    def next(self, trials: Sequence[Trial]) -> Step | None:
        for place in range(len(self._rungs) - 2, -1, -1):
            here = ranked(trials, self._metric, self._rungs[place])
            for trial in here[: len(here) // self._eta]:
                further = self._rungs[place + 1]
                if trial.status == "paused" and trial.asked < further <= trial.horizon:
                    return Step(trial=trial, epochs=further, horizon=trial.horizon)
        if len(trials) < self._max_trials:
            return Step(trial=None, epochs=self._rungs[0], horizon=self._rungs[-1])
        return None

    def losers(self, trials: Sequence[Trial]) -> list[Trial]:
        if len(trials) < self._max_trials or any(t.is_active for t in trials) or self.next(trials) is not None:
            return []
        return [trial for trial in trials if trial.status == "paused"]

    def epochs_left(self, trials: Sequence[Trial]) -> int:
        left = max(0, self._max_trials - len(trials)) * self._rungs[0]
        expected = self._max_trials
        for before, rung in pairwise(self._rungs):
            expected //= self._eta
            begun = sum(trial.asked >= rung for trial in trials)
            left += max(0, expected - begun) * (rung - before)
        return 0 if trials and all(trial.has_ended for trial in trials) else left


def build_scheduler(settings: SweepSettings, *, epochs: int, metric: Metric, rounds: Sequence[int]) -> Scheduler:
    """Return the scheduler of the algorithm. `epochs` is how long a trial of full length trains."""
    if settings.algorithm not in BY_RUNGS:
        return FullLength(settings.max_trials, epochs)
    if settings.algorithm == "hyperband":
        return Hyperband(rounds, settings.reduction, settings.epoch_multiplier, metric)
    rungs = halving_rungs(settings.max_epochs, settings.reduction, settings.epoch_multiplier)
    return Asha(settings.max_trials, rungs, settings.reduction, metric)

"""A search: its study, its scheduler and its samplers as one thing that says what to train next."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from optuna.distributions import BaseDistribution

from ..schemas.sweeps import SweepProgress, SweepSettings, TrialRecord
from .samplers import check_algorithm, grid_points, make_sampler
from .schedulers import Scheduler, Step, build_scheduler
from .study import Study
from .trials import Metric, Trial, ranked

#: Values of R of all rounds of Hyperband, and the time that earlier attempts took.
_ROUNDS, _SPENT = "trainyard.rounds", "trainyard.seconds"


class SearchSpace(Protocol):
    """What a search needs to know of its parameters."""

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]: ...

    def defaults(self) -> Mapping[str, Any] | None:
        """Return the point to begin with, None for any."""

    def effective(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values that are used for a drawn point: parameters may be bound by others."""

    def grid(self) -> Mapping[str, Sequence[Any]]:
        """Return the values of a grid, by parameter."""


class Search:
    """Says what to train next, and learns how it went. It starts nothing itself.

    Raises:
        InvalidInput: the algorithm does not fit the space or the metrics.
    """

    def __init__(
        self, study: Study, space: SearchSpace, settings: SweepSettings, metrics: Sequence[Metric], epochs: int
    ) -> None:
        check_algorithm(settings, space.distributions)
        self.settings = settings
        self.metrics = metrics
        self._study = study
        self._space = space
        self._scheduler: Scheduler = build_scheduler(
            settings, epochs=epochs, metric=self.metric, rounds=self._rounds(settings)
        )
        self._grid = grid_points(space.grid(), settings.seed) if settings.algorithm == "grid" else []
        self._began = time.monotonic()
        self._spent_s = float(study.recall(_SPENT) or 0.0)

    def _rounds(self, settings: SweepSettings) -> list[int]:
        rounds = list(self._study.recall(_ROUNDS) or [])
        if not rounds or settings.max_epochs > rounds[-1]:
            rounds.append(settings.max_epochs)
            self._study.remember(_ROUNDS, rounds)
        return rounds

    @property
    def metric(self) -> Metric:
        """The metric that ranks trials."""
        return self.metrics[0]

    @property
    def trials(self) -> Sequence[Trial]:
        return self._study.trials

    @property
    def active(self) -> list[Trial]:
        """Those that train or wait for a worker."""
        return [trial for trial in self.trials if trial.is_active]

    # --- what next

    def next(self) -> Trial | None:
        """Return a trial that is to train now until `asked` epochs, None when there is none yet or no more."""
        if self.why_ended() is not None:
            return None
        step = self._scheduler.next(self.trials)
        if step is None:
            return None
        if step.trial is None:
            return self._new(step)
        step.trial.asked, step.trial.status = step.epochs, "pending"
        self._study.save(step.trial)
        return step.trial

    def _new(self, step: Step) -> Trial | None:
        number = len(self.trials)
        point: Mapping[str, Any] | None = None
        if self.settings.algorithm == "grid":
            if number >= len(self._grid):
                return None
            point = self._grid[number]
        elif number == 0 and self.settings.start_from_spec:
            point = self._space.defaults()
        asked, params = self._study.propose(make_sampler(self.settings, number, self._study.seen), point)
        trial = Trial(
            number=number,
            params=dict(self._space.effective(params)),
            horizon=step.horizon,
            asked=step.epochs,
            bracket=step.bracket,
        )
        self._study.add(asked, trial)
        return trial

    def why_ended(self) -> str | None:
        """Return why no trial is started any more although there could be; None when there is no such reason."""
        settings = self.settings
        if settings.max_seconds is not None and self.seconds >= settings.max_seconds:
            return f"The time of {settings.max_seconds:g} s is used up."
        if settings.max_cost is not None and self.cost >= settings.max_cost:
            return f"The trials cost {self.cost:.4g} of {settings.max_cost:g}."
        if settings.patience:
            answered = [trial for trial in self.trials if trial.status == "success"]
            best = self.best
            since = sum(trial.number > best.number for trial in answered) if best is not None else 0
            if since >= settings.patience:
                assert best is not None
                return f"No better trial since trial {best.number}, {since} trials ago."
        return None

    @property
    def seconds(self) -> float:
        """Time that the search has taken, earlier attempts included."""
        return self._spent_s + time.monotonic() - self._began

    @property
    def cost(self) -> float:
        return sum(trial.seconds for trial in self.trials) / 3600 * self.settings.cost_per_hour

    def remember_time(self) -> None:
        """Keep how long the search took, for whoever goes on with it."""
        self._study.remember(_SPENT, self.seconds)

    # --- how it went

    def started(self, trial: Trial, run_id: str) -> None:
        """Take the flow run of a trial."""
        if trial.run_id != run_id:
            trial.run_id = run_id
            self._study.save(trial)

    def answered(
        self,
        trial: Trial,
        values: Sequence[float],
        *,
        results: Mapping[str, float],
        best_epoch: int | None,
        seconds: float,
    ) -> None:
        """Take the best value of each metric when a trial has reached the epochs it was asked for."""
        has_news = trial.asked not in trial.values
        trial.values[trial.asked] = list(values)
        trial.results, trial.best_epoch, trial.seconds = dict(results), best_epoch, seconds
        trial.status = "success" if trial.asked >= trial.horizon else "paused"
        self._study.save(trial, has_news=has_news)

    def failed(self, trial: Trial, reason: str) -> None:
        trial.status, trial.message = "failure", reason
        self._study.save(trial)

    def losers(self) -> list[Trial]:
        """End the trials that will not go on, and return them."""
        lost = self._scheduler.losers(self.trials)
        for trial in lost:
            trial.status, trial.message = "pruned", f"Others were better after {trial.done} epochs."
        if not self.active and (why := self.why_ended()) is not None:
            for trial in self.trials:
                if trial.status == "paused":
                    trial.status, trial.message = "pruned", why
                    lost.append(trial)
        for trial in lost:
            self._study.save(trial)
        return lost

    # --- what is known

    @property
    def best(self) -> Trial | None:
        """The best trial of full length; while there is none, the best of those that trained longest."""
        for candidates in (
            [trial for trial in self.trials if trial.status == "success"],
            self._longest([trial for trial in self.trials if trial.values and trial.status != "failure"]),
        ):
            if order := ranked(candidates, self.metric):
                return order[0]
        return None

    def _longest(self, trials: Sequence[Trial]) -> list[Trial]:
        most = max((trial.done for trial in trials), default=0)
        return [trial for trial in trials if trial.done == most]

    def records(self) -> list[TrialRecord]:
        return [
            TrialRecord(
                id=trial.number,
                specs=trial.params,
                status=trial.status,
                result=trial.values[trial.done][0] if trial.values else None,
                results=trial.results,
                job_id=trial.run_id,
                best_epoch_number=trial.best_epoch,
                epochs=trial.done,
                bracket=trial.bracket,
                rung=len(trial.values) or None,
                seconds=round(trial.seconds, 3),
                message=trial.message,
            )
            for trial in self.trials
        ]

    def progress(self, lanes: int) -> SweepProgress:
        """Return how far the search is; `lanes` trials run at once."""
        trials, best = self.trials, self.best
        epochs, seconds = sum(t.done for t in trials), sum(t.seconds for t in trials)
        each = seconds / epochs if epochs else None
        left = 0 if self.why_ended() is not None else self._scheduler.epochs_left(trials)
        counts: dict[Any, int] = {}
        for trial in trials:
            counts[trial.status] = counts.get(trial.status, 0) + 1
        open_epochs = left + sum(t.asked - t.done for t in trials if t.is_active)
        return SweepProgress(
            algorithm=self.settings.algorithm,
            metric=self.metric.name,
            maximize=self.metric.maximize,
            best=best.values[best.done][0] if best else None,
            best_trial=best.number if best else None,
            current_trial=trials[-1].number if trials else None,
            trials=counts,
            epochs_left=left,
            seconds_per_epoch=each,
            eta_s=each * open_epochs / max(1, lanes) if each is not None else None,
        )

    @property
    def fraction(self) -> float:
        """Share of the epochs that are done, as far as they are known."""
        done = sum(trial.done for trial in self.trials)
        doing = sum(trial.asked - trial.done for trial in self.trials if trial.is_active)
        left = 0 if self.why_ended() is not None else self._scheduler.epochs_left(self.trials)
        return done / (done + doing + left) if done else 0.0

"""A sweep over somebody's own function or task, in the flow that calls `search`."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from prefect import Task
from prefect.futures import PrefectFuture
from prefect.logging import get_run_logger

from ..schemas.errors import InvalidInput, JobFailed
from ..schemas.sweeps import STUDY_FILE, SweepSettings, TrialRecord
from ..sweeps.answers import Answer
from ..sweeps.conduct import Report, conduct
from ..sweeps.samplers import grid_values
from ..sweeps.search import Search
from ..sweeps.study import Study, open_storage
from ..sweeps.trials import Metric, Trial
from ..tasks.joblock import job_lock
from ..tasks.sweep_artifacts import Leaderboard

Value = float | Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialTask:
    """What an objective is asked to do."""

    number: int
    params: dict[str, Any]
    until_epoch: int
    """Train until so many epochs are done, those of earlier rungs included."""
    max_epochs: int
    folder: Path
    """The trial's own, for checkpoints: the same at every rung and after a restart."""


Objective = Callable[[TrialTask], Value] | Task[[TrialTask], Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search has found."""

    best: TrialRecord
    trials: list[TrialRecord]
    delays_s: list[float] = field(repr=False)
    """See `sweeps.conduct.Delays`."""


def search(
    objective: Objective,
    space: Mapping[str, BaseDistribution],
    *,
    folder: Path,
    settings: SweepSettings | None = None,
    metrics: Sequence[Metric] = (Metric("value", maximize=True),),
    start: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Search for the parameters with the best objective, inside a flow.

    `objective` gets a `TrialTask` and returns the value, or one for each of `metrics`. A task becomes a task run on the
    task runner of the flow, any other function is called in a thread: it costs less, and Prefect shows only the
    leaderboard. `space` are Optuna's distributions by name, `start` is the point of the first trial. The study is kept
    in `folder`: called again after whatever ended the process, the search goes on with the trials that it has, and
    those that were cut off run again. `settings.max_concurrent` is the number of CPUs when it is not set.

    Raises:
        InvalidInput: the settings do not fit.
        JobFailed: no trial has come to an end.
    """
    wanted = settings or SweepSettings()
    if wanted.max_concurrent is None:
        wanted = wanted.model_copy(update={"max_concurrent": os.cpu_count() or 1})
    if len(metrics) > 1:
        wanted = wanted.model_copy(update={"metrics": [metric.name for metric in metrics]})
    folder.mkdir(parents=True, exist_ok=True)
    with job_lock(folder), ThreadPoolExecutor(wanted.max_concurrent, "trainyard-trial") as threads:
        study = Study(open_storage(folder / STUDY_FILE), "search", metrics, space)
        found = Search(study, _Given(space, start), wanted, metrics, epochs=1)
        runner = _Here(found, objective, folder, threads)
        board = Leaderboard(f"search {_name(objective)}", metrics[0].maximize)
        for trial in found.active:
            runner.start(trial)
        delays = conduct(found, runner, is_stopping=lambda: False, tell=lambda: board.show(found.records))
        records = found.records()
        board.show(lambda: records, at_once=True)
        board.close()
    if (best := found.best) is None:
        reasons = sorted({trial.message for trial in found.trials})
        raise JobFailed(f"None of {len(found.trials)} trials came to an end. {' '.join(reasons[:3])}".strip())
    return SearchResult(best=records[best.number], trials=records, delays_s=delays.seconds)


class _Here:
    """A `sweeps.conduct.Runner` in this process: task runs on the flow's task runner, or calls in threads."""

    def __init__(self, found: Search, objective: Objective, folder: Path, threads: ThreadPoolExecutor) -> None:
        self._search = found
        self._objective = objective
        self._folder = folder
        self._threads = threads
        self._ended: queue.SimpleQueue[tuple[Trial, Future[Any] | PrefectFuture[Any]]] = queue.SimpleQueue()
        #: Without a reference to it, nobody calls the callback of a future of Prefect.
        self._futures: dict[int, Future[Any] | PrefectFuture[Any]] = {}
        self._began: dict[int, float] = {}

    def start(self, trial: Trial) -> None:
        folder = self._folder / f"trial_{trial.number}"
        folder.mkdir(exist_ok=True)
        asked = TrialTask(
            number=trial.number,
            params=trial.params,
            until_epoch=trial.asked,
            max_epochs=trial.horizon,
            folder=folder,
        )
        trial.status = "running"
        self._began[trial.number] = time.monotonic()
        future: Future[Any] | PrefectFuture[Any]
        if isinstance(self._objective, Task):
            future = self._objective.submit(asked)
        else:
            # With the context of the flow, so that its loggers and blocks work there.
            future = self._threads.submit(copy_context().run, self._objective, asked)
        self._futures[trial.number] = future
        future.add_done_callback(partial(self._take, trial))

    def _take(self, trial: Trial, future: Future[Any] | PrefectFuture[Any]) -> None:
        self._ended.put((trial, future))

    def end(self, trial: Trial) -> None:
        get_run_logger().info("Trial %d ends. %s", trial.number, trial.message)

    @property
    def waiting(self) -> int:
        return 0

    def wait(self, timeout_s: float) -> Iterable[Report]:
        try:
            trial, future = self._ended.get(timeout=timeout_s)
        except queue.Empty:
            return
        del self._futures[trial.number]
        yield self._report(trial, future)

    def _report(self, trial: Trial, future: Future[Any] | PrefectFuture[Any]) -> Report:
        try:
            outcome = future.result()
            values = [float(outcome)] if isinstance(outcome, int | float) else [float(value) for value in outcome]
        except Exception as error:  # noqa: BLE001 - whatever somebody's function raises is the end of one trial
            return Report(trial=trial, reason=f"{type(error).__name__}: {error}")
        metrics = self._search.metrics
        if len(values) != len(metrics):
            return Report(trial=trial, reason=f"It returned {len(values)} values for {len(metrics)} metrics.")
        results = {metric.name: value for metric, value in zip(metrics, values, strict=True)}
        answer = Answer(
            values=values,
            results=results,
            best_epoch=trial.asked,
            epochs=trial.asked,
            seconds=trial.seconds + time.monotonic() - self._began[trial.number],
        )
        return Report(trial=trial, answer=answer)


class _Given:
    """A `sweeps.search.SearchSpace` of distributions that somebody gave."""

    def __init__(self, space: Mapping[str, BaseDistribution], start: Mapping[str, Any] | None) -> None:
        if not space:
            raise InvalidInput("The search space is empty.", hint="Name at least one parameter.")
        self.distributions = space
        self._start = start

    def defaults(self) -> dict[str, Any] | None:
        return dict(self._start) if self._start is not None else None

    def effective(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params)

    def grid(self) -> dict[str, list[Any]]:
        return {name: grid_values(kind) for name, kind in self.distributions.items()}


def _name(objective: Callable[..., Any]) -> str:
    return str(getattr(objective, "name", None) or getattr(objective, "__name__", "objective"))

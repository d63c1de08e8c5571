"""Trains the trials of a sweep as flow runs on the work pool, and takes up those of an attempt that was killed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.logging import get_logger

from ..schemas.errors import NotFound
from ..schemas.results import JobResult
from ..sweeps.answers import read_answer
from ..sweeps.conduct import Report
from ..sweeps.search import Search
from ..sweeps.trials import Trial
from .trial_runs import STANDING, WAITING, Seen, TrialRuns

logger = get_logger("trainyard.sweep")

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

#: What a run may be in when an attempt before this one, or somebody who resumes the sweep, wants it to go on.
_STOPPED = frozenset({StateType.CANCELLED, StateType.PAUSED})

#: What a run may be in when its trial has reached what it was asked for.
_READABLE = _STOPPED | {StateType.COMPLETED}


class TrialPool:
    """A `sweeps.conduct.Runner`.

    `parameters` gives those of a trial's flow run, `read_result` its record. `keep` brings the study to where the next
    attempt finds it: before a run is made, the trial must be known there.
    """

    def __init__(
        self,
        search: Search,
        runs: TrialRuns,
        *,
        parameters: Callable[[Trial], dict[str, Any]],
        read_result: Callable[[Trial], JobResult],
        keep: Callable[[], None],
        tags: Sequence[str],
        work_queue: str | None,
        job_variables: Mapping[str, Any],
    ) -> None:
        self._search = search
        self._runs = runs
        self._parameters = parameters
        self._read_result = read_result
        self._keep = keep
        self._tags = tags
        self._work_queue = work_queue
        self._job_variables = job_variables
        #: The trial of each run that is under way, and when it was put into the queue: older news are old.
        self._trials: dict[UUID, Trial] = {}
        self._since: dict[UUID, datetime] = {}
        #: Runs that are to go on as soon as they have stopped.
        self._again: set[UUID] = set()

    def take_up(self) -> None:
        """Find out what has become of the trials that were under way when the attempt before this one ended."""
        known = self._runs.look([UUID(trial.run_id) for trial in self._search.active if trial.run_id is not None])
        for trial in self._search.active:
            seen = known.get(UUID(trial.run_id)) if trial.run_id is not None else None
            if seen is None:
                trial.run_id = None  # it was not made yet, or somebody has deleted it
                self.start(trial)
                continue
            self._trials[seen.run_id], self._since[seen.run_id] = trial, _LONG_AGO
            if seen.type in _STOPPED and not self._is_there(trial):
                self._go_on(trial, seen.run_id)
            elif seen.type is StateType.CANCELLING:
                self._again.add(seen.run_id)
        # The loop sees the ends of the others when it looks for the first time.

    # --- what the loop wants

    def start(self, trial: Trial) -> None:
        self._keep()
        if trial.run_id is not None:
            run_id = UUID(trial.run_id)
            self._trials[run_id] = trial
            self._go_on(trial, run_id)
            return
        seen = self._runs.create(
            trial.number,
            self._parameters(trial),
            tags=self._tags,
            work_queue=self._work_queue,
            job_variables=self._job_variables,
        )
        self._trials[seen.run_id], self._since[seen.run_id] = trial, _LONG_AGO
        self._search.started(trial, str(seen.run_id))

    def _go_on(self, trial: Trial, run_id: UUID) -> None:
        self._since[run_id] = self._runs.go_on(run_id, self._parameters(trial)) or _LONG_AGO

    def end(self, trial: Trial) -> None:
        if trial.run_id is not None:
            self._runs.end(UUID(trial.run_id), "Pruned", trial.message)

    @property
    def waiting(self) -> int:
        return sum(trial.status == "pending" for trial in self._trials.values())

    def wait(self, timeout_s: float) -> Iterable[Report]:
        for seen in self._runs.wait(list(self._trials), timeout_s):
            trial = self._trials.get(seen.run_id)
            if trial is None or seen.at < self._since[seen.run_id]:
                continue
            if (report := self._heed(trial, seen)) is not None:
                del self._trials[seen.run_id]
                yield report

    def _heed(self, trial: Trial, seen: Seen) -> Report | None:
        if seen.type not in STANDING:
            if seen.type not in WAITING and trial.status == "pending":
                trial.status = "running"
            return None
        if seen.type in _READABLE and (report := self._read(trial, seen)) is not None:
            return report
        if seen.run_id in self._again and seen.type in _STOPPED:
            self._again.discard(seen.run_id)
            self._go_on(trial, seen.run_id)
            return None
        if seen.type is StateType.PAUSED:
            return None  # by a person, who will let it go on
        return Report(trial=trial, reason=seen.message or f"Its flow run ended as {seen.name}.")

    def _read(self, trial: Trial, seen: Seen) -> Report | None:
        """Return the answer of a trial that has reached its epochs, or has ended before by itself."""
        is_complete = seen.type is StateType.COMPLETED
        try:
            result = self._read_result(trial)
        except NotFound:
            return None
        reached = (result.latest_epoch or 0) >= trial.asked
        if not reached and not is_complete:
            return None
        answer = read_answer(result, self._search.metrics)
        if answer is None:
            return Report(trial=trial, reason=f"It never measured {self._search.metric.name}.")
        return Report(trial=trial, answer=answer, ended=not reached)

    def _is_there(self, trial: Trial) -> bool:
        """Tell whether a trial has reached the epochs it was asked for."""
        with contextlib.suppress(NotFound):
            return (self._read_result(trial).latest_epoch or 0) >= trial.asked
        return False

    # --- the end of the attempt

    def stop(self, *, pause: bool) -> None:
        """Suspend or cancel all trials that are under way; cancelling ends those between two rungs as well."""
        ids = [
            UUID(trial.run_id)
            for trial in self._search.trials
            if trial.run_id is not None and (trial.is_active or (trial.status == "paused" and not pause))
        ]
        self._runs.stop(ids, pause=pause)

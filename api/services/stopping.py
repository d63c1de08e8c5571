"""Cancel, pause and time out jobs, whatever they are doing at the moment."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ...schemas.errors import Unavailable
from ...schemas.states import FINAL, PAUSING, TIMING_OUT, JobState
from .runs import FlowRun, FlowRuns, NextState

#: So many times a stop may find that the job has just changed. Two in a row are rare.
_TRIES = 10
_QUEUED, _WITH_PROCESS, _PAUSED = ("SCHEDULED",), ("PENDING", "RUNNING"), ("PAUSED",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A way to stop a job: what its worker is asked for, and where it ends."""

    ask: str
    """Name of the CANCELLING state that a worker sees."""
    end_type: str
    end_name: str
    ends_paused: bool = True
    """Whether it also takes a job that is paused."""

    def asking(self, message: str) -> NextState:
        return NextState(type="CANCELLING", name=self.ask, message=message)

    def ending(self, message: str) -> NextState:
        return NextState(type=self.end_type, name=self.end_name, message=message, suspends=self.end_type == "PAUSED")


CANCEL = Stop(ask="Cancelling", end_type="CANCELLED", end_name="Cancelled")
PAUSE = Stop(ask=PAUSING, end_type="PAUSED", end_name="Suspended", ends_paused=False)
TIME_OUT = Stop(ask=TIMING_OUT, end_type="FAILED", end_name="TimedOut")


async def stop_run(runs: FlowRuns, run_id: UUID, how: Stop, message: str) -> FlowRun:
    """Stop a run and return it as it is then: at its end, or on the way there in the hands of its worker.

    A run that has ended stays as it is. One without a process ends at once. Whatever changes in between is seen by
    Prefect, not by us, so every move says from which states it may be made, and what was refused is looked at anew.
    """
    for _ in range(_TRIES):
        run = await runs.read(run_id)
        if run.state in FINAL or (run.state_type == "PAUSED" and not how.ends_paused):
            return run
        if run.state_type == "CANCELLING":
            # The first stop stands, but for one: what is being paused can still be cancelled.
            if how is CANCEL and run.state == JobState.PAUSING:
                if not await runs.move_one(run_id, how.asking(message), names=[PAUSING], force=True):
                    continue
                run = await runs.read(run_id)
            return run
        if run.state_type == "SCHEDULED" and how is CANCEL:
            if run.infrastructure_pid and not run.owned:
                await runs.forget_process(run_id)
            # Prefect cancels what has no process at once, and decides that in one transaction.
            await runs.propose(run_id, how.asking(message))
            run = await runs.read(run_id)
            if run.state in FINAL or run.state_type == "CANCELLING":
                return run
        elif run.state_type in ("SCHEDULED", "PAUSED"):
            types = _QUEUED if run.state_type == "SCHEDULED" else _PAUSED
            moved = await runs.move_one(run_id, how.ending(message), types=types, force=True)
            if moved and not await _was_taken(runs, run_id, how, message):
                return await runs.read(run_id)
        elif await runs.move_one(run_id, how.asking(message), types=_WITH_PROCESS):
            return await runs.read(run_id)
    raise Unavailable("The job changes all the time.", hint="Try again in a few seconds.")


async def _was_taken(runs: FlowRuns, run_id: UUID, how: Stop, message: str) -> bool:
    """Tell whether a worker took the run in the moment before its end was set; its process is then asked to stop."""
    history = await runs.read_history(run_id)
    if len(history) < 2 or history[-1].type != how.end_type or history[-2].type not in _WITH_PROCESS:
        return False
    await runs.move_one(run_id, how.asking(message), types=[how.end_type], force=True)
    return True

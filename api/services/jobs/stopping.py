"""Cancel, pause and time out jobs, whatever they are doing at the moment."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from ....schemas.errors import Unavailable
from ....schemas.states import FINAL, PAUSING, TIMING_OUT, JobState
from .runs import FlowRun, FlowRuns, NextState

#: So many times a stop may find that the job has just changed. Two in a row are rare.
_TRIES = 10


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

    A run that has ended stays as it is. One without a process ends at once. The first stop stands, but for one: what
    is being paused can still be cancelled.
    """
    for _ in range(_TRIES):
        run = await runs.read(run_id)
        if run.state in FINAL or (run.state_type == "PAUSED" and not how.ends_paused):
            return run
        if run.state_type == "CANCELLING" and not (how is CANCEL and run.state == JobState.PAUSING):
            return run
        if run.state_type == "SCHEDULED" and how is CANCEL:
            if run.infrastructure_pid and not run.owned:
                await runs.forget_process(run_id)
            # Prefect cancels what has no process at once, and decides that in one transaction.
            await runs.propose(run_id, how.asking(message))
            run = await runs.read(run_id)
            if run.state in FINAL or run.state_type == "CANCELLING":
                return run
        elif await _swap(runs, run, how, message):
            return await runs.read(run_id)
    raise Unavailable("The job changes all the time.", hint="Try again in a few seconds.")


async def _swap(runs: FlowRuns, run: FlowRun, how: Stop, message: str) -> bool:
    """Set the state that stops a run; False when the run was in another one by then, which is put back."""
    state = how.ending(message) if run.state_type in ("SCHEDULED", "PAUSED") else how.asking(message)
    done = await runs.swap(run.id, state, types=[run.state_type], names=[run.state_name])
    if done is None:
        return False
    replaced = str(done.before["type"])
    if replaced == run.state_type or {replaced, run.state_type} == {"PENDING", "RUNNING"}:
        return True
    if (replaced, done.before["name"]) == (state.type, state.name):
        return True  # somebody else has just asked for the same
    await runs.put_back(run.id, done)
    return False

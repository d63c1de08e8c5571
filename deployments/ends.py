"""Which state follows when a run has no process any more: no run stays Running without one."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from datetime import UTC, datetime

from ..schemas.attempts import CRASHES_LABEL, LIMIT_LABEL, MAX_ATTEMPTS, OWNER_LABEL, read_attempts
from ..schemas.states import PAUSING, TIMING_OUT
from .prefect_runs import NewState, PrefectRuns, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Why a run has no process any more, though it has not ended."""

    cause: str
    counts: bool = True
    """Whether the run may be to blame. A stop that somebody asked for does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A state to set, and the number of crashes that goes with it."""

    state: NewState
    crashes: int | None = None


async def settle(runs: PrefectRuns, run: Run | None, loss: Loss) -> NewState | None:
    """Set the state that follows for a run without a process, and release it; return the state if one was set.

    The state is set only if the run is still in the one that it was read in; else it is read again. The
    owner goes last: until then no other worker starts a process.
    """
    owner = run.owner if run is not None else None
    done: End | None = None
    while run is not None and (end := next_end(run, loss)) is not None:
        if run.has_process:
            await runs.note_process(run.id, "")
        if run.retries_in_process:
            await runs.forget_retry(run.id)
        if (state := await runs.move(run, end.state, instead=_after_stop)) is not None:
            done = End(state=state, crashes=end.crashes if state is end.state else None)
            break
        run = await runs.read(run.id)
        if run is not None and (run.state_name, run.message) == (end.state.name, end.state.message):
            done = end  # it is set: the server was killed before it could say so
            break
    if run is None:
        return None
    if done is None and run.has_process and run.state_type in ("PAUSED", "CANCELLED"):
        await runs.note_process(run.id, "")
    labels: dict[str, str | int] = {}
    if owner and run.owner == owner:
        labels[OWNER_LABEL] = ""
    if done is not None and done.crashes is not None:
        labels[CRASHES_LABEL] = done.crashes
    if labels:
        await runs.label(run.id, labels)
    return None if done is None else done.state


def next_end(run: Run, loss: Loss) -> End | None:
    """Return what follows the state of a run whose process is gone; None if the state may stay."""
    if run.state_type == "CANCELLING":
        return End(state=end_of_stop(run))
    if run.state_type == "SCHEDULED":
        return _after_loss(run, loss) if run.retries_in_process else None
    if run.state_type in ("PENDING", "RUNNING") or (run.state_type == "PAUSED" and not run.suspended):
        return _after_loss(run, loss)
    return None


def end_of_stop(run: Run) -> NewState:
    """Return the state that the name of a Cancelling state asks for."""
    if run.state_name == PAUSING:
        return NewState(
            type="PAUSED", name="Suspended", message=run.message or "Paused.", details={"pause_reschedule": True}
        )
    if run.state_name == TIMING_OUT:
        return NewState(type="FAILED", name="TimedOut", message=run.message or "The time of the run is over.")
    return NewState(type="CANCELLED", name="Cancelled", message=run.message or "Cancelled.")


def _after_stop(run: Run) -> NewState | None:
    return end_of_stop(run) if run.state_type == "CANCELLING" else None


def _after_loss(run: Run, loss: Loss) -> End:
    if not loss.counts:
        name = "Scheduled" if run.state_type == "PENDING" else "AwaitingRetry"
        return End(state=_again(run, name, loss.cause))
    crashes, limit = crashes_of(run) + 1, limit_of(run)
    if crashes >= limit:
        message = f"{loss.cause} It was failed attempt {crashes} of {limit}, so the run is given up."
        return End(state=NewState(type="CRASHED", name="Crashed", message=message), crashes=crashes)
    message = (
        f"{loss.cause} It was failed attempt {crashes} of {limit}; "
        "the run starts again, from its last checkpoint where it has one."
    )
    return End(state=_again(run, "AwaitingRetry", message), crashes=crashes)


def _again(run: Run, name: str, message: str) -> NewState:
    # The old time keeps the place in the queue. Runs that were held have been expected in a far future.
    times = [datetime.now(UTC), *(attempt.at for attempt in read_attempts(run.labels)[:1])]
    if run.expected_start_at is not None:
        times.append(run.expected_start_at)
    return NewState(type="SCHEDULED", name=name, message=message, details={"scheduled_time": min(times).isoformat()})


def crashes_of(run: Run) -> int:
    crashes = run.labels.get(CRASHES_LABEL)
    return crashes if isinstance(crashes, int) else 0


def limit_of(run: Run) -> int:
    """Return how many crashes end the run."""
    for limit in (run.labels.get(LIMIT_LABEL), run.job_variables.get("max_attempts")):
        if isinstance(limit, int) and limit >= 1:
            return limit
    return MAX_ATTEMPTS


def why_it_ended(status: int, out_of_memory: bool) -> str:
    """Say how a process ended that has not told the end of its run."""
    if status >= 0:
        return f"The process of the run ended with exit code {status} before the run was over."
    name = signal.Signals(-status).name if -status in signal.valid_signals() else "unknown signal"
    text = f"The process of the run was killed: {status} ({name})."
    if out_of_memory:
        return f"{text} The kernel did it because memory ran out."
    if -status == signal.SIGKILL:
        return f"{text} Most often that is the kernel when memory runs out."
    return text

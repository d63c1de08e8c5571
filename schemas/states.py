"""States of a job: ours, mapped from Prefect's state type and name by one table."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life. Each dialect has its own words for these."""

    WAITING = "waiting"
    """Held back by the facade: a parent, data or the quota of its org is in the way."""
    PENDING = "pending"
    RUNNING = "running"
    PAUSING = "pausing"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"
    FAILED = "failed"


#: Names of the SCHEDULED state, far in the future, of flow runs that are held back, by what they wait for.
AWAITING_PARENT = "AwaitingParent"
AWAITING_DATA = "AwaitingData"
AWAITING_QUOTA = "AwaitingQuota"
AWAITING_CODE = "AwaitingCode"
HELD_STATES = (AWAITING_PARENT, AWAITING_DATA, AWAITING_QUOTA, AWAITING_CODE)

#: Names of the CANCELLING state that say what follows when the process is gone: Suspended, or Failed as TimedOut.
#: Any other name is followed by Cancelled.
PAUSING = "Pausing"
TIMING_OUT = "TimingOut"

FINAL = frozenset({JobState.CANCELLED, JobState.DONE, JobState.FAILED})

_BY_PREFECT_TYPE = {
    "SCHEDULED": JobState.PENDING,
    "PENDING": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "PAUSED": JobState.PAUSED,
    "CANCELLING": JobState.CANCELLING,
    "CANCELLED": JobState.CANCELLED,
    "COMPLETED": JobState.DONE,
    "FAILED": JobState.FAILED,
    "CRASHED": JobState.FAILED,
}


def job_state(prefect_type: str, prefect_name: str) -> JobState:
    """Return the job state for a Prefect state type (`SCHEDULED`, ...) and state name."""
    if prefect_name in HELD_STATES:
        return JobState.WAITING
    if prefect_name == PAUSING and prefect_type == "CANCELLING":
        return JobState.PAUSING
    return _BY_PREFECT_TYPE[prefect_type]

"""States of a job: ours, mapped from Prefect's state type and name by one table."""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life. Each dialect has its own words for these."""

    WAITING = "waiting"
    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"
    FAILED = "failed"


#: Name of the SCHEDULED state of a flow run whose parent job has not ended yet.
AWAITING_PARENT = "AwaitingParent"

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
    if prefect_name == AWAITING_PARENT:
        return JobState.WAITING
    return _BY_PREFECT_TYPE[prefect_type]

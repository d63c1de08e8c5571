"""Executions of a job: what workers write on the flow run, and what accounting reads there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum

from pydantic import BaseModel, ValidationError

#: Label with the process that has the run: `machine pid:start`; empty when nobody has it any more.
OWNER_LABEL = "trainyard.worker.process"
#: Label with the name of the worker that has the run, as the work pool lists it.
WORKER_LABEL = "trainyard.worker.name"
#: Label with the number of processes or workers that the run has lost. Stops that somebody asked for do not count.
CRASHES_LABEL = "trainyard.crashes"
#: Label with the job variable `max_attempts` of a run, for those who do not know its deployment.
LIMIT_LABEL = "trainyard.max_attempts"
#: Labels `trainyard.attempt.1`, ... hold an `Attempt` as JSON.
ATTEMPT_LABEL = "trainyard.attempt."

#: A run that has lost so many workers or processes has failed, unless the job says otherwise.
MAX_ATTEMPTS = 3


class Priority(IntEnum):
    """Who goes first. The values are the priorities of Prefect's work queues of the same names."""

    HIGH = 1
    NORMAL = 2
    LOW = 3

    @property
    def work_queue(self) -> str:
        """Name of the work queue in the pool. Prefect makes `default` itself."""
        return "default" if self is Priority.NORMAL else self.name.lower()


class Attempt(BaseModel):
    """One execution of a job."""

    number: int
    at: datetime
    """When the worker started the process."""
    worker: str
    host: str
    cpus: int
    gpus: int = 0
    gpu_type: str | None = None


def read_attempts(labels: Mapping[str, object]) -> list[Attempt]:
    """Return the attempts that the labels of a flow run tell of, in order."""
    attempts = []
    for name, value in labels.items():
        if name.startswith(ATTEMPT_LABEL) and isinstance(value, str):
            try:
                attempts.append(Attempt.model_validate_json(value))
            except ValidationError:
                continue  # labels are open to everybody in the Prefect UI
    return sorted(attempts, key=lambda attempt: attempt.number)

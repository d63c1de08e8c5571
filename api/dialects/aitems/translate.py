"""From train jobs to the words of the document."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from ....schemas.states import JobState
from ...catalog.models import Job
from ...services.experiments.sweeps import ENABLED, is_enabled
from ...services.jobs.trains import Trains

_STATUS = {
    JobState.WAITING: "waiting",
    JobState.PENDING: "waiting",
    JobState.RUNNING: "training",
    JobState.PAUSING: "stopping",
    JobState.CANCELLING: "stopping",
    JobState.PAUSED: "paused",
    JobState.CANCELLED: "stopped",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
}


def trains_out(trains: Trains, offset: int, limit: int) -> dict[str, Any]:
    return {"trains": [_train_out(job, trains) for job in trains.jobs], "offset": offset, "limit": limit}


def _train_out(job: Job, trains: Trains) -> dict[str, Any]:
    next_at = trains.next_at
    return {
        "serviceId": str(trains.experiment.id),
        "type": job.action,
        "hpConfig": _hp_config(trains.experiment.sweep),
        "version": str(job.id),
        **({"description": job.description} if job.description else {}),
        "status": _STATUS[JobState(job.state)],
        "createdDate": _time(job.created_at),
        **({"nextUpdateDate": _time(next_at)} if next_at is not None else {}),
        "inference": job.id in trains.with_predictions,
    }


def _hp_config(sweep: dict[str, Any]) -> dict[str, str | int | bool]:
    """Return the settings of the search; the document knows text, whole numbers and truth values."""
    options = {
        name.removeprefix("automl_"): value if isinstance(value, str | int | bool) else json.dumps(value)
        for name, value in sweep.items()
        if name != ENABLED
    }
    return {"is_enabled": is_enabled(sweep), **options}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")

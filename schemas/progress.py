"""What a running job tells the world, as the payload of a Prefect event and as a line of `status.json`."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from .results import EpochMetrics
from .sweeps import SweepProgress

#: Name of the Prefect event that carries a `JobProgress` as its payload.
PROGRESS_EVENT = "trainyard.job.progress"


class JobProgress(BaseModel):
    """One report of a running job. A later report replaces an earlier one; `epoch` lines add up."""

    job_id: str
    at: datetime
    fraction: float = Field(ge=0, le=1, description="Share of the work that is done.")
    message: str = ""
    epoch: EpochMetrics | None = Field(default=None, description="Set when an epoch has just ended.")
    usage: dict[str, float] | None = Field(default=None, description="What the command of a `run` job uses now.")
    eta_s: float | None = Field(default=None, description="Seconds to the end, estimated.")
    sweep: SweepProgress | None = Field(default=None, description="Set when the job is a sweep.")

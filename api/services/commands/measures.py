"""What commands used over time, from MLflow."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from ....blocks import ArtifactStorage, layout
from ....schemas.errors import NotFound
from ...catalog.models import Job
from ..upkeep.mlflow_runs import MlflowRuns

_RUN_FILE = "mlflow_run.json"


class Measure(StrEnum):
    CPU = "cpu"
    MEMORY = "memory"
    NETWORK = "network"
    GPU_UTILIZATION = "gpu_utilization"
    GPU_MEMORY = "gpu_memory"
    DISK = "disk"


UNITS = {
    Measure.CPU: "percent of one core",
    Measure.MEMORY: "MiB",
    Measure.NETWORK: "bytes per second, of the worker's machine",
    Measure.GPU_UTILIZATION: "percent",
    Measure.GPU_MEMORY: "MiB",
    Measure.DISK: "bytes per second",
}


@dataclass(frozen=True, slots=True)
class Point:
    at: datetime
    value: float


class MeasureService:
    def __init__(self, storage: ArtifactStorage, mlflow: MlflowRuns) -> None:
        self._storage = storage
        self._mlflow = mlflow

    async def read(self, job: Job, measure: Measure) -> list[Point]:
        """Return the points of a measure, oldest first; none for a job that has not started.

        Raises:
            Unavailable: MLflow does not answer.
        """
        path = f"{layout.job(job.org, job.id)}/{_RUN_FILE}"
        try:
            recorded = json.loads(await asyncio.to_thread(self._storage.read_bytes, path))
        except NotFound:
            return []
        points = await self._mlflow.history(str(recorded["run_id"]), measure)
        return [Point(datetime.fromtimestamp(step, UTC), value) for step, value in points]

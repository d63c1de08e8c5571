"""What running jobs report, live by Prefect's events and afterwards from their status file."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import ValidationError

from ....blocks import ArtifactStorage, layout
from ....schemas.errors import NotFound
from ....schemas.progress import JobProgress
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.commands import CommandJob
from ...catalog.models import Job, utc_now


class ProgressBook:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage) -> None:
        self._catalog = catalog
        self._storage = storage

    async def apply(self, payload: Mapping[str, Any]) -> None:
        """Take one report; late and repeated ones are dropped."""
        try:
            progress = JobProgress.model_validate(payload)
            job_id = UUID(progress.job_id)
        except (ValidationError, ValueError):
            return
        await self._write(job_id, [progress])

    async def catch_up(self, job: Job) -> None:
        """Take what the status file says: reports that nobody listened to are in no event any more."""
        path = f"{layout.job(job.org, job.id)}/status.json"
        try:
            content = await asyncio.to_thread(self._storage.read_bytes, path)
        except NotFound:
            return
        found = []
        for line in content.splitlines():
            try:
                found.append(JobProgress.model_validate_json(line))
            except ValidationError:
                continue  # a line that was cut off, or one of a client's own
        await self._write(job.id, [report for report in found if report.job_id == str(job.id)])

    async def _write(self, job_id: UUID, reports: Sequence[JobProgress]) -> None:
        if not reports:
            return
        async with self._catalog.writing() as session:
            job = await session.get(Job, job_id, with_for_update=True)
            if job is None or JobState(job.state) in FINAL:
                return
            epochs = {epoch["epoch"]: epoch for epoch in job.history}
            epochs |= {r.epoch.epoch: r.epoch.model_dump(mode="json") for r in reports if r.epoch is not None}
            if len(epochs) != len(job.history) or any(r.epoch for r in reports):
                job.history = [epochs[number] for number in sorted(epochs)]
            last = max(reports, key=lambda report: report.at)
            if last.usage is not None and (command := await session.get(CommandJob, job_id)) is not None:
                command.usage = last.usage
            if job.progress_at is not None and last.at < job.progress_at:
                return
            job.progress_at, job.fraction, job.eta_s = last.at, last.fraction, last.eta_s
            if last.sweep is not None:
                job.sweep = last.sweep.model_dump(mode="json")
            if job.state not in (JobState.PAUSING, JobState.CANCELLING, JobState.PAUSED):  # those have their own
                job.message = last.message[:6400]
            job.updated_at = utc_now()

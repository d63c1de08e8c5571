"""What somebody outside of a job adds to its status file and to its log."""

from __future__ import annotations

import asyncio
import json

from ....blocks import ArtifactStorage, layout
from ....schemas.errors import Conflict, InvalidInput
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Job, utc_now


class ReportService:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage) -> None:
        self._catalog = catalog
        self._storage = storage

    async def add_status(self, job: Job, line: str) -> None:
        """Append one JSON object to the status file; its `message` is shown from now on."""
        _refuse_ended(job)
        try:
            status = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInput("status: it is no JSON text.", hint="Send one JSON object as a string.") from error
        if not isinstance(status, dict):
            raise InvalidInput("status: it is no JSON object.", hint='Send for example {"message": "epoch 3"}.')
        path = f"{layout.job(job.org, job.id)}/status.json"
        await asyncio.to_thread(self._storage.append_text, path, json.dumps(status) + "\n")
        if isinstance(message := status.get("message"), str):
            async with self._catalog.writing() as session:
                if (row := await session.get(Job, job.id)) is not None and JobState(row.state) not in FINAL:
                    row.message = job.message = message[:6400]
                    row.updated_at = job.updated_at = utc_now()

    async def add_log(self, job: Job, text: str) -> None:
        """Append text to the log."""
        _refuse_ended(job)
        newline = "" if text.endswith("\n") else "\n"
        await asyncio.to_thread(self._storage.append_text, layout.log(job.org, job.id), text + newline)


def _refuse_ended(job: Job) -> None:
    if JobState(job.state) in (*FINAL, JobState.PAUSED):
        raise Conflict("The job has stopped; its status and log are complete.")

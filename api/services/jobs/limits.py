"""Give up jobs that take longer than they may."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from sqlalchemy import or_, select

from ....schemas.errors import NotFound, YardError
from ....schemas.states import JobState
from ...catalog import Catalog
from ...catalog.models import Job, utc_now
from ..accounts.usage import run_seconds
from ..projection.projection import Projection
from .busy import BusyJobs
from .runs import FlowRuns
from .stopping import TIME_OUT, stop_run

logger = logging.getLogger(__name__)

#: What is being stopped already is left to its end.
_STATES = (JobState.WAITING, JobState.PENDING, JobState.RUNNING, JobState.PAUSED)


class LimitService:
    def __init__(self, catalog: Catalog, runs: FlowRuns, projection: Projection, busy: BusyJobs) -> None:
        self._catalog = catalog
        self._runs = runs
        self._projection = projection
        self._busy = busy

    async def enforce(self) -> None:
        """Stop the jobs that are over one of their limits."""
        limited = or_(Job.max_run_s.is_not(None), Job.max_pending_s.is_not(None), Job.expires_at.is_not(None))
        async with self._catalog.reading() as session:
            jobs = list(await session.scalars(select(Job).where(Job.state.in_(_STATES), limited)))
        now = utc_now()
        for job in jobs:
            if (reason := over_limit(job, now)) is None:
                continue
            try:
                async with self._busy.changing([job.id]):
                    run = await stop_run(self._runs, job.id, TIME_OUT, reason)
                await self._projection.apply(run)
            except NotFound:
                continue  # deleted since; the reconciler sees it
            except YardError as error:
                logger.warning("The job %s is over its limit and was not stopped: %s", job.id, error)


def over_limit(job: Job, now: datetime) -> str | None:
    """Return why a job is given up at a moment, None while it may go on."""
    if job.expires_at is not None and now >= job.expires_at:
        return f"The job was not done when it expired, {job.expires_at:%Y-%m-%d %H:%M:%S} UTC (expires_at)."
    if job.max_pending_s is not None and job.state == JobState.PENDING and job.pending_at is not None:
        if now - job.pending_at >= timedelta(seconds=job.max_pending_s):
            return f"No worker had room for the job within {job.max_pending_s:g} s (max_pending_time)."
    elif job.max_run_s is not None and job.state == JobState.RUNNING and run_seconds(job, now) >= job.max_run_s:
        return f"The job ran longer than the {job.max_run_s:g} s it may (max_run_time)."
    return None

"""One true sentence about every job: what it waits for, what it does or why it ended. Made when it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from ....schemas.states import TIMING_OUT, JobState
from ...catalog.models import Job, utc_now
from ...prices import Prices
from ..accounts.usage import Use, use_of
from .facts import chunks, data_facts, read_datasets, read_parents, read_quota, read_without_code
from .holds import Doomed, in_the_way
from .workers import OnlineWorkers

_RETRY = "AwaitingRetry"
_FIXED = {
    JobState.RUNNING: "Running.",
    JobState.PAUSED: "Paused.",
    JobState.CANCELLED: "Cancelled.",
    JobState.DONE: "Done.",
    JobState.FAILED: "Failed.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job, the sentence about it and what it has used."""

    row: Job
    message: str
    use: Use | None
    """None as long as it has not run."""
    currency: str


class Reasons:
    def __init__(self, workers: OnlineWorkers, prices: Prices) -> None:
        self._workers = workers
        self._prices = prices

    async def view(self, session: AsyncSession, job: Job) -> JobView:
        return (await self.views(session, [job]))[0]

    async def views(self, session: AsyncSession, jobs: Sequence[Job]) -> list[JobView]:
        """Return jobs of one org with their sentences, at a fixed number of queries."""
        waiting = [job for job in jobs if job.state == JobState.WAITING]
        queued = [job for job in jobs if job.state == JobState.PENDING and job.due_at is not None]
        held = await _held_by(session, waiting) if waiting else {}
        ahead = await _ahead(session, queued) if queued else {}
        now = utc_now()
        return [
            JobView(
                row=job,
                message=self._sentence(job, held, ahead),
                use=use_of(job, now, self._prices) if _has_run(job) else None,
                currency=self._prices.currency,
            )
            for job in jobs
        ]

    def _sentence(self, job: Job, held: Mapping[UUID, str], ahead: Mapping[UUID, int]) -> str:
        state = JobState(job.state)
        if state == JobState.WAITING:
            return held[job.id]
        if state == JobState.PENDING:
            return self._of_pending(job, ahead.get(job.id))
        if state == JobState.PAUSING:
            return "Being paused: the job writes a checkpoint and ends its process."
        if state == JobState.CANCELLING:
            return f"Being stopped: {job.message}" if job.state_name == TIMING_OUT else "Being cancelled."
        return job.message or _FIXED[state]

    def _of_pending(self, job: Job, ahead: int | None) -> str:
        if ahead is None:
            return job.message or "A worker has taken the job and starts it."
        said = [f"To be tried again: {job.message}"] if job.state_name == _RETRY and job.message else []
        workers = self._workers.names(job.action)
        if workers == ():
            said.append("Waiting for a worker; none is online.")
        if ahead:
            said.append(f"{ahead} {'job is' if ahead == 1 else 'jobs are'} ahead in the queue.")
        elif workers != ():
            said.append("Waiting for a worker with room for it, as the first in the queue.")
        return " ".join(said)


def _has_run(job: Job) -> bool:
    return bool(job.attempts) or job.unaccounted or job.state == JobState.RUNNING


async def _held_by(session: AsyncSession, jobs: Sequence[Job]) -> dict[UUID, str]:
    parents = await read_parents(session, (job.parent_id for job in jobs))
    datasets = await read_datasets(session, (UUID(i) for job in jobs for i in job.dataset_ids))
    quota = await read_quota(session, jobs[0].org)
    without_code = await read_without_code(session, jobs)
    said = {}
    for job in jobs:
        data = [data_facts(i, datasets.get(i)) for i in map(UUID, job.dataset_ids)]
        parent = parents.get(job.parent_id) if job.parent_id else None
        found = in_the_way(job.parent_id, parent, data, quota, job.id in without_code)
        if found is None:
            said[job.id] = "Nothing is in the way any more; the job is about to be queued."
        else:
            said[job.id] = found.reason if isinstance(found, Doomed) else found.sentence
    return said


async def _ahead(session: AsyncSession, jobs: Sequence[Job]) -> dict[UUID, int]:
    """Return how many jobs of all orgs a worker would take first."""
    in_queue = (Job.state == JobState.PENDING) & Job.due_at.is_not(None)
    if len(jobs) == 1:  # two counts over ranges of an index; a rank would read the whole queue
        [job] = jobs
        same = (Job.priority == job.priority) & (tuple_(Job.due_at, Job.id) < tuple_(job.due_at, job.id))
        counts = [
            await session.scalar(select(func.count()).select_from(Job).where(in_queue, before)) or 0
            for before in (Job.priority < job.priority, same)
        ]
        return {job.id: sum(counts)}
    place = func.row_number().over(order_by=(Job.priority, Job.due_at, Job.id))
    queue = select(Job.id, place.label("place")).where(in_queue).subquery()
    found: dict[UUID, int] = {}
    for some in chunks([job.id for job in jobs]):
        for job_id, at in await session.execute(select(queue.c.id, queue.c.place).where(queue.c.id.in_(some))):
            found[job_id] = at - 1
    return found

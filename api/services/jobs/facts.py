"""What the catalog knows about the things that can be in the way of a job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ....schemas.states import AWAITING_CODE, AWAITING_QUOTA, JobState
from ...catalog.commands import CommandJob
from ...catalog.models import Dataset, Job, Org
from ..data.data_status import DatasetStatus
from .holds import DataFacts, ParentFacts, QuotaFacts
from .job_states import ACTIVE

T = TypeVar("T")

#: So many ids per query every database takes.
_CHUNK = 500


async def read_parents(session: AsyncSession, ids: Iterable[UUID | None]) -> dict[UUID, ParentFacts]:
    """Return those of the jobs that exist, as their children see them."""
    found: dict[UUID, ParentFacts] = {}
    for some in chunks({i for i in ids if i is not None}):
        rows = await session.execute(select(Job.id, Job.state, Job.message, Job.fraction).where(Job.id.in_(some)))
        for row in rows:
            state = JobState(row.state)
            found[row.id] = ParentFacts(id=row.id, state=state, message=row.message, fraction=row.fraction)
    return found


async def read_datasets(session: AsyncSession, ids: Iterable[UUID]) -> dict[UUID, Dataset]:
    """Return those of the data sets that exist."""
    found: dict[UUID, Dataset] = {}
    for some in chunks(set(ids)):
        found |= {row.id: row for row in await session.scalars(select(Dataset).where(Dataset.id.in_(some)))}
    return found


async def read_quota(session: AsyncSession, org: str) -> QuotaFacts | None:
    """Return how much of its quota of running jobs an org uses, None when it has none."""
    most = await session.scalar(select(Org.max_running).where(Org.name == org))
    if most is None:
        return None
    return QuotaFacts(active=await read_active(session, org), most=most)


async def read_active(session: AsyncSession, org: str) -> int:
    """Return how many jobs of an org are with workers or in their queue."""
    query = select(func.count()).select_from(Job).where(Job.org == org, Job.state.in_(ACTIVE))
    return await session.scalar(query) or 0


async def read_without_code(session: AsyncSession, jobs: Iterable[Job]) -> set[UUID]:
    """Return those of the jobs that wait for code which is not there yet."""
    waiting = {job.id for job in jobs if job.state_name == AWAITING_CODE}
    ready: set[UUID] = set()
    for some in chunks(waiting):
        query = select(CommandJob.job_id).where(CommandJob.job_id.in_(some), CommandJob.ready_at.is_not(None))
        ready |= set(await session.scalars(query))
    return waiting - ready


def held_by_quota(org: str) -> Select[UUID]:
    """Return the query for the jobs that only the quota of their org holds back."""
    return select(Job.id).where(Job.org == org, Job.state == JobState.WAITING, Job.state_name == AWAITING_QUOTA)


def data_facts(dataset_id: UUID, row: Dataset | None, problem: str = "") -> DataFacts:
    return DataFacts(id=dataset_id, status=DatasetStatus(row.status) if row is not None else None, problem=problem)


def chunks(ids: Iterable[T]) -> Iterator[list[T]]:
    everything = list(ids)
    for start in range(0, len(everything), _CHUNK):
        yield everything[start : start + _CHUNK]

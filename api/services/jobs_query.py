"""Jobs as parts of the things that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ...schemas.errors import InUse
from ..catalog.models import Job
from .projection import LIVE

#: An experiment or data set shows this many of its jobs; `GET .../jobs` lists all.
SHOWN = 50


async def newest_jobs(
    session: AsyncSession, owner: InstrumentedAttribute[Any], ids: Sequence[UUID]
) -> dict[UUID, list[Job]]:
    """Return the newest jobs of each owner (`Job.experiment_id` or `Job.dataset_id`), newest first."""
    found: dict[UUID, list[Job]] = {owner_id: [] for owner_id in ids}
    if not ids:
        return found
    rank = func.row_number().over(partition_by=owner, order_by=(Job.created_at.desc(), Job.id.desc())).label("rank")
    ranked = select(Job.id, rank).where(owner.in_(ids)).subquery()
    query = (
        select(Job)
        .join(ranked, ranked.c.id == Job.id)
        .where(ranked.c.rank <= SHOWN)
        .order_by(Job.created_at.desc(), Job.id.desc())
    )
    for job in await session.scalars(query):
        found[getattr(job, owner.key)].append(job)
    return found


async def refuse_if_needed(session: AsyncSession, job_ids: Sequence[UUID]) -> None:
    """Raise `InUse` when another job that has not ended starts from one of these."""
    child = await session.scalar(
        select(Job).where(Job.parent_id.in_(job_ids), Job.id.not_in(job_ids), Job.state.in_(LIVE)).limit(1)
    )
    if child is not None:
        raise InUse(f"The job {child.id} starts from the result.", hint="Wait for it or cancel it first.")

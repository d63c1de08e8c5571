"""Jobs as parts of the things that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from ...catalog.models import Job
from .reasons import JobView, Reasons

#: An experiment or data set shows this many of its jobs; `GET .../jobs` lists all.
SHOWN = 50


async def newest_jobs(
    session: AsyncSession, reasons: Reasons, owner: InstrumentedAttribute[Any], ids: Sequence[UUID]
) -> dict[UUID, list[JobView]]:
    """Return the newest jobs of each owner (`Job.experiment_id` or `Job.dataset_id`), newest first."""
    found: dict[UUID, list[JobView]] = {owner_id: [] for owner_id in ids}
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
    for view in await reasons.views(session, (await session.scalars(query)).all()):
        found[getattr(view.row, owner.key)].append(view)
    return found

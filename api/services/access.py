"""Read a thing of an org, or say that there is none, in the same words for both reasons.

`lock` keeps other writers from it until the transaction ends (SQLite has one writer anyway).
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ...schemas.errors import NotFound
from ..catalog.models import Dataset, Experiment, Job


async def read_dataset(session: AsyncSession, org: str, dataset_id: UUID, *, lock: bool = False) -> Dataset:
    query = select(Dataset).where(Dataset.id == dataset_id, Dataset.org == org)
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("Dataset not found.")
    return found


async def read_experiment(session: AsyncSession, org: str, experiment_id: UUID, *, lock: bool = False) -> Experiment:
    query = select(Experiment).where(Experiment.id == experiment_id, Experiment.org == org)
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("Experiment not found.")
    return found


async def read_job(session: AsyncSession, org: str, job_id: UUID, *, lock: bool = False) -> Job:
    query = select(Job).where(Job.id == job_id, Job.org == org)
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("Job not found.")
    return found

"""Read a thing of an org, or say that there is none, in the same words for both reasons.

`lock` keeps other writers from it until the transaction ends (SQLite has one writer anyway).
"""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from sqlalchemy import Select, bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from ...schemas.errors import NotFound
from ..catalog.models import Dataset, Experiment, Job

R = TypeVar("R", Dataset, Experiment, Job)


async def read_dataset(session: AsyncSession, org: str, dataset_id: UUID, *, lock: bool = False) -> Dataset:
    return await _read(session, _DATASET, org, dataset_id, lock)


async def read_experiment(session: AsyncSession, org: str, experiment_id: UUID, *, lock: bool = False) -> Experiment:
    return await _read(session, _EXPERIMENT, org, experiment_id, lock)


async def read_job(session: AsyncSession, org: str, job_id: UUID, *, lock: bool = False) -> Job:
    return await _read(session, _JOB, org, job_id, lock)


def _query(model: type[R]) -> Select[R]:
    return select(model).where(model.id == bindparam("thing"), model.org == bindparam("org"))


# why here and not where they are sent: every request sends one, and to put one together takes longer than to run it
_DATASET, _EXPERIMENT, _JOB = _query(Dataset), _query(Experiment), _query(Job)


async def _read(session: AsyncSession, query: Select[R], org: str, thing_id: UUID, lock: bool) -> R:
    found = await session.scalar(query.with_for_update() if lock else query, {"thing": thing_id, "org": org})
    if found is None:
        raise NotFound(f"{query.column_descriptions[0]['name']} not found.")
    return found

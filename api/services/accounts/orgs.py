"""Quotas of orgs, and how much of them is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ....schemas.errors import InvalidInput, NotFound, QuotaExceeded
from ...catalog import Catalog, with_catalog
from ...catalog.bundles import Bundle
from ...catalog.models import Dataset, Job, Org
from ..jobs.facts import read_active

KEEP: Any = object()
"""For a quota that stays as it is; None takes it away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OrgInfo:
    """An org, its quotas and what it uses of them. A quota of None is no limit."""

    name: str
    max_running: int | None
    max_storage_bytes: int | None
    keep_days: float | None
    keep_jobs: int | None
    running: int
    storage_bytes: int


def set_quota(
    database_url: str,
    org: str,
    *,
    max_running: int | None = KEEP,
    max_storage_bytes: int | None = KEEP,
    keep_days: float | None = KEEP,
    keep_jobs: int | None = KEEP,
) -> OrgInfo:
    """Change the quotas of an org; what is not given stays, None takes a limit away.

    Raises:
        NotFound: no such org.
        InvalidInput: a limit below its bound.
    """
    given = {
        "max_running": max_running,
        "max_storage_bytes": max_storage_bytes,
        "keep_days": keep_days,
        "keep_jobs": keep_jobs,
    }
    changes = {name: value for name, value in given.items() if value is not KEEP}
    for name, value in changes.items():
        least = 1 if name == "max_running" else 0
        if value is not None and value < least:
            raise InvalidInput(f"{name}: it is at least {least}, not {value}.")

    async def run(catalog: Catalog) -> OrgInfo:
        await catalog.upgrade()
        async with catalog.writing() as session:
            row = await session.get(Org, org)
            if row is None:
                raise NotFound(f"There is no org {org!r}.", hint="`trainyard keys create --org` makes it.")
            for name, value in changes.items():
                setattr(row, name, value)
            await session.flush()
            return await _info(session, row)

    return with_catalog(database_url, run)


def list_orgs(database_url: str) -> list[OrgInfo]:
    """Return all orgs by name."""

    async def run(catalog: Catalog) -> list[OrgInfo]:
        await catalog.upgrade()
        async with catalog.reading() as session:
            rows = await session.scalars(select(Org).order_by(Org.name))
            return [await _info(session, row) for row in rows.all()]

    return with_catalog(database_url, run)


async def read_storage_bytes(session: AsyncSession, org: str) -> int:
    """Return the bytes of the data sets, jobs and bundles of an org, as of their last change."""
    sizes = [
        await session.scalar(select(func.coalesce(func.sum(model.size_bytes), 0)).where(model.org == org))
        for model in (Dataset, Job, Bundle)
    ]
    return sum(size or 0 for size in sizes)


async def refuse_full_storage(session: AsyncSession, org: str, more_bytes: int = 0) -> None:
    """Raise `QuotaExceeded` when an org keeps more than it may, or would with so many bytes more."""
    most = await session.scalar(select(Org.max_storage_bytes).where(Org.name == org))
    if most is None:
        return
    used = await read_storage_bytes(session, org)
    if used + more_bytes > most or used >= most:
        coming = f" and {more_bytes} are coming" if more_bytes else ""
        raise QuotaExceeded(
            f"The org keeps {used} bytes{coming}; its quota is {most}.",
            hint="Delete jobs or data sets that nobody needs, or ask for a larger quota.",
        )


async def _info(session: AsyncSession, row: Org) -> OrgInfo:
    return OrgInfo(
        name=row.name,
        max_running=row.max_running,
        max_storage_bytes=row.max_storage_bytes,
        keep_days=row.keep_days,
        keep_jobs=row.keep_jobs,
        running=await read_active(session, row.name),
        storage_bytes=await read_storage_bytes(session, row.name),
    )

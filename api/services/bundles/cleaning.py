"""Bundles that nobody needs any more."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy import exists, select
from sqlalchemy.orm import aliased

from ....blocks import layout
from ...catalog import Catalog
from ...catalog.bundles import Bundle
from ...catalog.models import Job, Purge, utc_now

#: A younger one may be about to get its job.
MIN_AGE = timedelta(hours=1)


class BundleCleaning:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def collect(self, min_age: timedelta = MIN_AGE) -> None:
        """Delete the bundles whose jobs are all deleted; the newest of a workspace stays, as its pipeline."""
        newer = aliased(Bundle)
        replaced = exists().where(
            newer.org == Bundle.org, newer.workspace == Bundle.workspace, newer.created_at > Bundle.created_at
        )
        unused = ~exists().where(Job.bundle_id == Bundle.id)
        async with self._catalog.writing() as session:
            query = select(Bundle).where(Bundle.created_at < utc_now() - min_age, unused, replaced)
            for bundle in await session.scalars(query):
                session.add(Purge(id=uuid4(), paths=[layout.bundle(bundle.org, bundle.id)], flow_run_id=None))
                await session.delete(bundle)

"""What nobody needs any more, found by comparing the storage with the catalog, and by the age of jobs."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....blocks.storage import StoredFile
from ....schemas.errors import InUse, NotFound, YardError
from ....schemas.states import FINAL
from ...catalog import Catalog
from ...catalog.bundles import Bundle
from ...catalog.models import Dataset, Experiment, Job, Org, Purge, utc_now
from ..accounts.idempotency import IdempotencyKeys
from ..data.data_status import DatasetStatus
from ..jobs.job_states import LIVE
from ..jobs.runs import FlowRuns
from .cleanup import CleanUp, needed, purge_of

logger = logging.getLogger(__name__)

#: Younger files may belong to something whose row is just being written.
MIN_AGE_S = 3600.0
#: Org of tasks that run in somebody's own flow, where no catalog knows about jobs.
_LOCAL_ORG = "local"
#: Files that become others by a rename when they are complete.
_HALF_WRITTEN = re.compile(r"(^|/)\.(incoming-[^/]*|[^/]+\.tmp)$")
_INDEXES, _INDEX_POINTER, _INCOMING = "indexes", "index.json", ".incoming"
_NOBODY = UUID(int=0)
_FIRST_AFTER_S = 600.0


class Kind(StrEnum):
    """Why a thing goes."""

    DELETED = "deleted"
    """Left behind by a deletion that could not be finished."""
    OLD = "old"
    """A job past the age that its org keeps."""
    UNKNOWN = "unknown"
    """In the storage, but of no job, data set or experiment."""
    HALF_WRITTEN = "half-written"
    INDEX = "index"
    """Index of a data set as it was before."""
    KEYS = "keys"
    """Idempotency keys past their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing that goes or has gone. `name` is a path of the storage, or the id of a job."""

    kind: Kind
    org: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A job that would be old enough to go, and why it stays."""

    org: str
    job_id: UUID
    why: str


@dataclass(slots=True, kw_only=True)
class Report:
    dry_run: bool
    items: list[Item] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        return sum(item.size_bytes for item in self.items)


@dataclass(frozen=True, slots=True)
class _Find:
    """A thing that may go, and how: `free` returns the bytes, or None when it had to stay after all."""

    item: Item
    free: Callable[[], Awaitable[int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Thing:
    """A file or folder of the storage; `id` is that of the job, data set or experiment in its path."""

    id: UUID
    path: str
    size_bytes: int
    modified_at: float


@dataclass(slots=True)
class _Scan:
    of_jobs: list[_Thing] = field(default_factory=list)
    of_datasets: list[_Thing] = field(default_factory=list)
    of_experiments: list[_Thing] = field(default_factory=list)
    of_bundles: list[_Thing] = field(default_factory=list)
    indexes: list[_Thing] = field(default_factory=list)
    half_written: list[_Thing] = field(default_factory=list)


class Garbage:
    """Finds what may go and lets it go. A second run in a row finds nothing."""

    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        runs: FlowRuns,
        cleanup: CleanUp,
        keys: IdempotencyKeys,
        interval_h: float,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._cleanup = cleanup
        self._keys = keys
        self._lock = asyncio.Lock()
        self._interval_s = 3600 * interval_h
        self._due_at = time.monotonic() + min(_FIRST_AFTER_S, self._interval_s)

    async def collect_when_due(self) -> None:
        """Do the round of the day if it is time for it; to be called often."""
        if time.monotonic() > self._due_at:
            report = await self.collect()
            self._due_at = time.monotonic() + self._interval_s
            logger.info("Cleaned up %d things, %d bytes.", len(report.items), report.freed_bytes)

    async def collect(
        self,
        *,
        dry_run: bool = False,
        org: str | None = None,
        older_than: timedelta | None = None,
        min_age_s: float = MIN_AGE_S,
    ) -> Report:
        """Free what nobody needs, or with `dry_run` only list it.

        `older_than` takes the place of the age that orgs keep; `org` looks at that one only.

        Raises:
            NotFound: no such org.
            Unavailable: Prefect does not answer; nothing is freed on a guess.
        """
        report = Report(dry_run=dry_run)
        async with self._lock:
            async with self._catalog.reading() as session:
                query = select(Org).where(Org.name == org) if org is not None else select(Org).order_by(Org.name)
                orgs = list(await session.scalars(query))
            if org is not None and not orgs:
                raise NotFound(f"There is no org {org!r}.", hint="`trainyard orgs list` shows all.")
            names = [row.name for row in orgs]
            await self._carry_out(report, await self._deleted(names))
            for row in orgs:
                keep = older_than if older_than is not None else _days(row.keep_days)
                if keep is not None:
                    await self._carry_out(report, await self._old(row, keep, report))
            before = time.time() - min_age_s
            for row in orgs:
                if row.name != _LOCAL_ORG:
                    await self._carry_out(report, await self._strangers(row.name, row.created_at.timestamp(), before))
            if org is None:
                await self._carry_out(report, await self._uploads(before))
                await self._carry_out(report, await self._old_keys())
        return report

    async def _carry_out(self, report: Report, finds: Iterable[_Find]) -> None:
        for find in finds:
            if report.dry_run:
                report.items.append(find.item)
                continue
            try:
                freed = await find.free()
            except (YardError, OSError) as error:
                logger.warning("%s stays for now: %s", find.item.name, error)
                continue
            if freed is not None:
                item = find.item
                report.items.append(Item(kind=item.kind, org=item.org, name=item.name, size_bytes=freed))

    async def _deleted(self, orgs: Collection[str]) -> list[_Find]:
        finds = []
        for purge in await self._cleanup.pending(held=True):
            org = str(purge.paths[0]).partition("/")[0]
            if org in orgs and (size_bytes := await self._cleanup.size(purge)) is not None:
                name = str(purge.flow_run_id or purge.paths[0])
                item = Item(kind=Kind.DELETED, org=org, name=name, size_bytes=size_bytes)
                finds.append(_Find(item, partial(self._cleanup.finish, purge)))
        return finds

    async def _old(self, org: Org, keep: timedelta, report: Report) -> list[_Find]:
        """Return the jobs that ended too long ago, but for the newest of each owner and those that are needed."""
        registered = await self._cleanup.registered()
        async with self._catalog.reading() as session:
            jobs = await _old_jobs(session, org, keep)
            reasons = await needed(session, jobs, registered=registered)
        finds = []
        for job in jobs:
            if (why := reasons.get(job.id)) is not None:
                report.kept.append(Kept(org=org.name, job_id=job.id, why=why))
                continue
            size_bytes = await self._cleanup.size(purge_of(job)) or 0
            item = Item(kind=Kind.OLD, org=org.name, name=str(job.id), size_bytes=size_bytes)
            finds.append(_Find(item, partial(self._delete_old, job, registered)))
        return finds

    async def _delete_old(self, job: Job, registered: Collection[str]) -> int | None:
        try:
            return await self._cleanup.delete_ended(job.org, job.id, registered)
        except (InUse, NotFound):
            return None  # since it was listed, somebody began to need it or deleted it

    async def _strangers(self, org: str, since: float, before: float) -> list[_Find]:
        """Return what lies in the folders of an org and is of nothing that exists.

        What is older than the org itself is from before this catalog, and not ours to judge.
        """
        async with self._catalog.reading() as session:
            jobs = {row.id: row.state for row in await session.execute(select(Job.id, Job.state).where(Job.org == org))}
            datasets = set(await session.scalars(select(Dataset.id).where(Dataset.org == org)))
            experiments = set(await session.scalars(select(Experiment.id).where(Experiment.org == org)))
            bundles = set(await session.scalars(select(Bundle.id).where(Bundle.org == org)))
            purges = list(await session.scalars(select(Purge)))
            live = await session.scalars(select(Job.dataset_ids).where(Job.org == org, Job.state.in_(LIVE)))
            read = {UUID(dataset_id) for dataset_ids in live for dataset_id in dataset_ids}
        purged = {str(path) for purge in purges for path in purge.paths}
        found = await asyncio.to_thread(self._scan, org, datasets)
        of_jobs = [thing for thing in found.of_jobs if thing.id not in jobs]
        # why: a run that somebody started by hand has no row before the projector has seen it
        adoptable = {run.id for run in await self._runs.read_many(sorted({thing.id for thing in of_jobs}))}
        strangers = [thing for thing in of_jobs if thing.id not in adoptable]
        strangers += [thing for thing in found.of_datasets if thing.id not in datasets]
        strangers += [thing for thing in found.of_experiments if thing.id not in experiments]
        strangers += [thing for thing in found.of_bundles if thing.id not in bundles]
        finds = [(Kind.UNKNOWN, thing) for thing in strangers]
        gone = {thing.path for thing in strangers}
        for thing in found.half_written:
            if thing.path.rpartition("/")[0] not in gone and jobs.get(thing.id) in (None, *FINAL):
                finds.append((Kind.HALF_WRITTEN, thing))
        finds += [(Kind.INDEX, thing) for thing in found.indexes if thing.id not in read]
        return [
            self._removal(kind, org, thing)
            for kind, thing in finds
            if since <= thing.modified_at < before and thing.path not in purged
        ]

    def _scan(self, org: str, datasets: Collection[UUID]) -> _Scan:
        """Return what lies in the folders of an org, by what it should belong to."""
        scan = _Scan()
        for area in (layout.jobs(org), layout.logs(org), layout.downloads(org), layout.experiments(org)):
            folders: dict[str, list[StoredFile]] = {}
            for file in self._files(area):
                folders.setdefault(file.path.partition("/")[0], []).append(file)
            for name, files in folders.items():
                job_id = _id(name)
                for file in files:
                    if _HALF_WRITTEN.search(file.path):
                        scan.half_written.append(_thing(job_id or _NOBODY, f"{area}/{file.path}", [file]))
                if job_id is not None and not _HALF_WRITTEN.search(name):
                    target = scan.of_experiments if area == layout.experiments(org) else scan.of_jobs
                    target.append(_thing(job_id, f"{area}/{name}", files))
        area = layout.bundles(org)
        for name in self._storage.list_names(area):
            if (bundle_id := _id(name)) is not None:
                scan.of_bundles.append(_thing(bundle_id, f"{area}/{name}", self._files(f"{area}/{name}")))
        area = layout.datasets(org)
        for name in self._storage.list_names(area):
            if (dataset_id := _id(name)) is None:
                continue
            folder = f"{area}/{name}"
            if dataset_id not in datasets:
                scan.of_datasets.append(_thing(dataset_id, folder, self._files(folder)))
            else:
                scan.indexes += self._old_indexes(dataset_id, folder)
                for inside in self._storage.list_names(folder):
                    if _HALF_WRITTEN.search(inside):
                        path = f"{folder}/{inside}"
                        scan.half_written.append(_thing(_NOBODY, path, self._files(path)))
        return scan

    def _old_indexes(self, dataset_id: UUID, folder: str) -> list[_Thing]:
        """Return the indexes of a data set but the one that jobs would read now."""
        current = ""
        if self._storage.exists(f"{folder}/{_INDEX_POINTER}"):
            current = str(self._storage.read_json(f"{folder}/{_INDEX_POINTER}").get("path", ""))
        names = self._storage.list_names(f"{folder}/{_INDEXES}")
        paths = [path for name in names if (path := f"{folder}/{_INDEXES}/{name}") != current]
        return [_thing(dataset_id, path, self._files(path)) for path in paths]

    def _files(self, path: str) -> list[StoredFile]:
        return self._storage.list_files(path, internal=True)

    async def _uploads(self, before: float) -> list[_Find]:
        """Return what uploads have left that a killed facade was receiving."""
        async with self._catalog.reading() as session:
            receiving = select(Dataset.id).where(Dataset.status == DatasetStatus.RECEIVING).limit(1)
            if await session.scalar(receiving) is not None:
                return []
        names = await asyncio.to_thread(self._storage.list_names, _INCOMING)
        things = [_thing(_NOBODY, f"{_INCOMING}/{name}", self._files(f"{_INCOMING}/{name}")) for name in names]
        return [self._removal(Kind.HALF_WRITTEN, "", thing) for thing in things if thing.modified_at < before]

    async def _old_keys(self) -> list[_Find]:
        count = await self._keys.expired()

        async def expire() -> int:
            await self._keys.expire()
            return 0

        item = Item(kind=Kind.KEYS, org="", name=f"{count} idempotency keys", size_bytes=0)
        return [_Find(item, expire)] if count else []

    def _removal(self, kind: Kind, org: str, thing: _Thing) -> _Find:
        item = Item(kind=kind, org=org, name=thing.path, size_bytes=thing.size_bytes)
        return _Find(item, partial(asyncio.to_thread, self._storage.remove, thing.path))


def _thing(owner_id: UUID, path: str, files: Sequence[StoredFile]) -> _Thing:
    return _Thing(
        id=owner_id,
        path=path,
        size_bytes=sum(file.size_bytes for file in files),
        modified_at=max((file.modified_at for file in files), default=0.0),
    )


def _id(name: str) -> UUID | None:
    """Return the id that a name begins with; other names are not ours."""
    try:
        return UUID(name.partition(".")[0])
    except ValueError:
        return None


def _days(days: float | None) -> timedelta | None:
    return timedelta(days=days) if days is not None else None


async def _old_jobs(session: AsyncSession, org: Org, keep: timedelta) -> list[Job]:
    """Return the jobs that ended longer ago, oldest first, but for the `keep_jobs` newest of each owner."""
    owner = func.coalesce(Job.experiment_id, Job.dataset_id)
    rank = func.row_number().over(partition_by=owner, order_by=(Job.created_at.desc(), Job.id.desc())).label("rank")
    ranked = select(Job.id, rank).where(Job.org == org.name).subquery()
    query = (
        select(Job)
        .join(ranked, ranked.c.id == Job.id)
        .where(
            ranked.c.rank > (org.keep_jobs or 0),
            Job.state.in_(FINAL),
            func.coalesce(Job.ended_at, Job.state_at) < utc_now() - keep,
        )
        .order_by(Job.created_at)
    )
    return list(await session.scalars(query))

"""Start or end the jobs that are held back, as soon as what is in their way changes."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Update, bindparam, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from ....blocks import ArtifactStorage
from ....datasets.image_folder import require_two_classes
from ....schemas.actions import TRAINING
from ....schemas.errors import DatasetError, NotFound, YardError
from ....schemas.jobs import Datasets
from ....schemas.states import AWAITING_DATA, AWAITING_PARENT, AWAITING_QUOTA, FINAL, HELD_STATES, JobState
from ...catalog import Catalog
from ...catalog.models import Dataset, Job, utc_now
from ..data.data_status import DatasetStatus
from ..data.manifests import read_manifest
from ..files.joblog import end_log
from ..projection.adoption import TICK
from .busy import BusyJobs
from .facts import chunks, data_facts, held_by_quota, read_datasets, read_parents, read_quota, read_without_code
from .holds import Doomed, Held, ParentFacts, QuotaFacts, doom_of_children, in_the_way, told_to
from .runs import BULK, FlowRuns, NextState

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class _Facts:
    """What the verdicts about some jobs of an org rest on."""

    jobs: list[Job]
    parents: Mapping[UUID, ParentFacts]
    datasets: Mapping[UUID, Dataset]
    quota: QuotaFacts | None
    without_code: Collection[UUID] = ()


#: State name of jobs whose end is decided here and not yet in Prefect.
DECIDED = "Decided"
#: Logs that are ended at a time.
_WRITERS = 8
_ENDS = {JobState.FAILED: "FAILED", JobState.CANCELLED: "CANCELLED"}


class Settler:
    """Applies the verdicts of `holds` by moves that only take jobs which are held back."""

    def __init__(self, catalog: Catalog, storage: ArtifactStorage, runs: FlowRuns, busy: BusyJobs) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._busy = busy
        #: One settling of an org at a time, or its quota would be given away twice.
        self._orgs: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def settle_after(self, job: Job, state: JobState) -> None:
        """Settle whatever may depend on a job that has stopped or ended."""
        wanted: list[UUID] = []
        async with self._catalog.reading() as session:
            if state in FINAL:
                waiting = (Job.parent_id == job.id) & (Job.state == JobState.WAITING)
                wanted += await session.scalars(select(Job.id).where(waiting))
            if await read_quota(session, job.org) is not None:
                wanted += await session.scalars(held_by_quota(job.org))
        await self._settle(job.org, wanted)

    async def settle_jobs(self, org: str, ids: Collection[UUID]) -> None:
        """Settle some jobs of an org."""
        await self._settle(org, list(ids))

    async def settle_dataset(self, org: str, dataset_id: UUID) -> None:
        """Settle the jobs that wait for a data set whose upload has ended."""
        query = select(Job).where(Job.org == org, Job.state == JobState.WAITING, Job.state_name == AWAITING_DATA)
        async with self._catalog.reading() as session:
            waiting = [job.id for job in await session.scalars(query) if str(dataset_id) in job.dataset_ids]
        await self._settle(org, waiting)

    async def settle_all(self) -> None:
        """Settle every job that something may have happened to: the safety net for lost events and restarts."""
        parent = aliased(Job)
        changed = or_(Job.state_name != AWAITING_PARENT, parent.id.is_(None), parent.state.in_(FINAL))
        query = (
            select(Job.org, Job.id)
            .outerjoin(parent, parent.id == Job.parent_id)
            .where(Job.state == JobState.WAITING, changed)
        )
        by_org: defaultdict[str, list[UUID]] = defaultdict(list)
        async with self._catalog.reading() as session:
            for org, job_id in await session.execute(query):
                by_org[org].append(job_id)
        for org, ids in by_org.items():
            await self._settle(org, ids)
        await self._complete()

    async def hold_of(self, org: str, parent_id: UUID | None, dataset_ids: Sequence[UUID]) -> Held | Doomed | None:
        """Return what would be in the way of a job now.

        An org with a quota gets its new jobs held, so that they are counted in one place: `settle_jobs` releases them.
        """
        async with self._catalog.reading() as session:
            parents = await read_parents(session, {parent_id} - {None})
            datasets = await read_datasets(session, set(dataset_ids))
            quota = await read_quota(session, org)
        data = [data_facts(i, datasets.get(i)) for i in dataset_ids]
        found = in_the_way(parent_id, parents.get(parent_id) if parent_id else None, data, quota)
        if found is None and quota is not None:
            return Held(AWAITING_QUOTA, "Waiting for the quota of the org.")
        return found

    async def _settle(self, org: str, ids: Sequence[UUID]) -> None:
        if not ids:
            return
        async with self._orgs[org]:
            async with self._catalog.reading() as session:
                facts = await _read_facts(session, org, ids)
            problems = await self._problems(facts)
            verdicts = _verdicts(facts, problems)
            await self._apply(org, facts, verdicts)

    async def _apply(self, org: str, facts: _Facts, verdicts: Mapping[UUID, Held | Doomed | None]) -> None:
        doomed: defaultdict[Doomed, list[UUID]] = defaultdict(list)
        held: defaultdict[Held, list[UUID]] = defaultdict(list)
        for job in facts.jobs:
            found = verdicts[job.id]
            if isinstance(found, Doomed):
                doomed[found].append(job.id)
            elif isinstance(found, Held) and found.name != job.state_name:
                held[found].append(job.id)
        # Those whose parent is done first: somebody watches them. The order of the queue is that of the release.
        free = [job.id for job in facts.jobs if verdicts[job.id] is None]
        await self._move(org, free, NextState(type="SCHEDULED", message="Nothing is in the way any more."))
        for hold, ids in held.items():
            await self._move(org, ids, NextState(type="SCHEDULED", name=hold.name, message=hold.sentence, far=True))
        heirs: defaultdict[Doomed, list[UUID]] = defaultdict(list)
        for doom, ids in doomed.items():
            for job_id in ids:
                heirs[doom_of_children(job_id, doom)].append(job_id)
        ends = list(doomed.items())
        for doom, ids in heirs.items():
            async with self._catalog.reading() as session:
                ends.append((doom, await _waiting_descendants(session, ids)))
        # Prefect takes its time for a thousand of them; who asks here knows at once. Descendants first: whoever finds
        # a child ended, as `settle_after` does when another settles, finds those below it ended too.
        for doom, ids in reversed(ends):
            await self._decide(ids, doom)
        for doom, ids in ends:
            await self._move(org, ids, NextState(type=_ENDS[doom.state], message=doom.reason))

    async def _move(self, org: str, ids: Sequence[UUID], state: NextState) -> None:
        """Move jobs that are held back in Prefect, and write what was moved."""
        for start in range(0, len(ids), BULK):
            some = ids[start : start + BULK]
            async with self._busy.changing(some):
                # The guard says it all; Prefect's own rules would only cost time.
                async for moved in self._runs.move_from(some, state, names=HELD_STATES, force=True):
                    await self._write(org, moved, state)

    async def _decide(self, ids: Sequence[UUID], doom: Doomed) -> None:
        """Write the end of jobs that are held back before Prefect has it. `settle_all` completes what is cut short."""
        for some in chunks(ids):
            async with self._busy.changing(some):
                await self._decide_some(some, doom)

    async def _decide_some(self, ids: Sequence[UUID], doom: Doomed) -> None:
        waiting = (Job.id.in_(ids)) & (Job.state == JobState.WAITING)
        async with self._catalog.reading() as session:
            jobs = list(await session.scalars(select(Job).where(waiting)))
        if not jobs:
            return
        said = {job.id: told_to(job.parent_id, doom.reason) for job in jobs}
        # Before the rows: whoever sees the end finds the log complete.
        await asyncio.to_thread(self._end_logs, jobs[0].org, doom.state, said)
        now = utc_now()
        decided = [
            {
                "b_id": job.id,
                "b_state": doom.state,
                "b_state_name": DECIDED,
                # behind Prefect's own, which then replaces it
                "b_state_at": job.state_at + TICK,
                "b_message": said[job.id],
                "b_due_at": None,
                "b_pending_at": None,
                "b_ended_at": now,
                "b_updated_at": now,
            }
            for job in jobs
        ]
        async with self._catalog.writing() as session:
            await (await session.connection()).execute(_MOVE, decided)

    async def _complete(self) -> None:
        """End in Prefect what was decided here and not completed."""
        async with self._catalog.reading() as session:
            jobs = list(await session.scalars(select(Job).where(Job.state_name == DECIDED)))
        for job in jobs:
            # A settling that is going on has them first.
            async with self._orgs[job.org]:
                pass
            state = NextState(type=_ENDS[JobState(job.state)], message=job.message)
            await self._move(job.org, [job.id], state)
            async with self._catalog.writing() as session:  # whoever else moved it in Prefect, it is no decision now
                still = (Job.id == job.id) & (Job.state_name == DECIDED)
                await session.execute(update(Job).where(still).values(state_name=state.type.capitalize()))

    async def _write(self, org: str, moved: Mapping[UUID, datetime], state: NextState) -> None:
        job_state = {"FAILED": JobState.FAILED, "CANCELLED": JobState.CANCELLED}.get(state.type, JobState.PENDING)
        if state.far:
            job_state = JobState.WAITING
        ended = job_state in FINAL
        now = utc_now()
        async with self._catalog.writing() as session:
            rows = await session.execute(select(Job.id, Job.parent_id).where(Job.id.in_(list(moved))))
            said = {row.id: told_to(row.parent_id, state.message) if ended else "" for row in rows}
            values = [
                {
                    "b_id": job_id,
                    "b_state": job_state,
                    "b_state_name": state.name or state.type.capitalize(),
                    "b_state_at": moved[job_id],
                    "b_message": message,
                    "b_due_at": moved[job_id] if job_state == JobState.PENDING else None,
                    "b_pending_at": moved[job_id] if job_state == JobState.PENDING else None,
                    "b_ended_at": moved[job_id] if ended else None,
                    "b_updated_at": now,
                }
                for job_id, message in said.items()
            ]
            if values:  # else all of them were deleted meanwhile
                await (await session.connection()).execute(_MOVE, values)
        if ended:
            await asyncio.to_thread(self._end_logs, org, job_state, said)

    def _end_logs(self, org: str, state: JobState, said: Mapping[UUID, str]) -> None:
        def end(job_id: UUID) -> None:
            try:
                end_log(self._storage, org, job_id, state, said[job_id])
            except (YardError, OSError) as error:  # the state counts; a log that cannot be written must not keep it
                logger.warning("The log of the job %s was not ended: %s", job_id, error)

        # A remote storage takes its time for each of a thousand.
        with ThreadPoolExecutor(min(_WRITERS, len(said) or 1)) as writers:
            list(writers.map(end, said))

    async def _problems(self, facts: _Facts) -> dict[tuple[UUID, UUID], str]:
        """Return what is wrong with data that changed after a job was checked, by job and data set."""
        found: dict[tuple[UUID, UUID], str] = {}
        for job in facts.jobs:
            if job.action not in TRAINING or _parent_is_missing(job, facts):
                continue
            for dataset in (facts.datasets.get(UUID(i)) for i in job.dataset_ids):
                if dataset is None or dataset.status != DatasetStatus.READY:
                    continue
                if dataset.updated_at <= job.created_at and job.state_name != AWAITING_DATA:
                    continue
                try:
                    trained_on = Datasets.model_validate(
                        (await self._runs.read(job.id)).parameters.get("datasets") or {}
                    ).train
                    if dataset.id in trained_on:
                        manifest = await asyncio.to_thread(read_manifest, self._storage, job.org, dataset.id)
                        if manifest.classes:  # else they are in a table
                            require_two_classes(manifest.classes)
                except DatasetError as error:
                    found[job.id, dataset.id] = str(error)
                except (NotFound, ValidationError):
                    continue  # the job itself will say so
        return found


_MOVE: Update = (
    update(Job)
    .where(Job.id == bindparam("b_id"), Job.state_at <= bindparam("b_state_at"))
    .values(
        {
            name: bindparam(f"b_{name}")
            for name in (
                *("state", "state_name", "state_at", "message", "due_at", "pending_at", "ended_at", "updated_at"),
            )
        }
    )
)


def _verdicts(facts: _Facts, problems: Mapping[tuple[UUID, UUID], str]) -> dict[UUID, Held | Doomed | None]:
    """Return the verdict about each job; the quota goes to those first in the queue."""
    found: dict[UUID, Held | Doomed | None] = {}
    active = facts.quota.active if facts.quota is not None else 0
    for job in sorted(facts.jobs, key=lambda job: (job.priority, job.created_at, job.id)):
        data = [
            data_facts(dataset_id, facts.datasets.get(dataset_id), problems.get((job.id, dataset_id), ""))
            for dataset_id in map(UUID, job.dataset_ids)
        ]
        quota = QuotaFacts(active=active, most=facts.quota.most) if facts.quota is not None else None
        parent = facts.parents.get(job.parent_id) if job.parent_id is not None else None
        found[job.id] = in_the_way(job.parent_id, parent, data, quota, job.id in facts.without_code)
        active += found[job.id] is None
    return found


def _parent_is_missing(job: Job, facts: _Facts) -> bool:
    """Tell whether the job cannot start whatever its data are."""
    if job.parent_id is None:
        return False
    parent = facts.parents.get(job.parent_id)
    return parent is None or parent.state != JobState.DONE


async def _read_facts(session: AsyncSession, org: str, ids: Sequence[UUID]) -> _Facts:
    quota = await read_quota(session, org)
    wanted = set(ids)
    if quota is not None:  # the slots go to the first ones in the queue, whoever asked
        wanted |= set(await session.scalars(held_by_quota(org)))
    jobs: list[Job] = []
    for some in chunks(wanted):
        jobs += await session.scalars(select(Job).where(Job.id.in_(some), Job.state == JobState.WAITING))
    jobs.sort(key=lambda job: (job.priority, job.created_at, job.id))
    parents = await read_parents(session, {job.parent_id for job in jobs} - {None})
    datasets = await read_datasets(session, {UUID(i) for job in jobs for i in job.dataset_ids})
    without_code = await read_without_code(session, jobs)
    return _Facts(jobs=jobs, parents=parents, datasets=datasets, quota=quota, without_code=without_code)


async def _waiting_descendants(session: AsyncSession, ids: Sequence[UUID]) -> list[UUID]:
    """Return all jobs that wait for one of these, children before grandchildren."""
    found: list[UUID] = []
    for some in chunks(ids):
        tree = (
            select(Job.id, literal(1).label("depth"))
            .where(Job.parent_id.in_(some), Job.state == JobState.WAITING)
            .cte("tree", recursive=True)
        )
        child = aliased(Job)
        tree = tree.union_all(
            select(child.id, tree.c.depth + 1)
            .join(tree, child.parent_id == tree.c.id)
            .where(child.state == JobState.WAITING)
        )
        found += await session.scalars(select(tree.c.id).order_by(tree.c.depth))
    return list(dict.fromkeys(found))

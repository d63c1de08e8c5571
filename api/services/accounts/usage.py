"""What jobs cost: attempts with their seconds, from Prefect's history and from what workers wrote on the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, update

from ....blocks import ArtifactStorage, layout
from ....schemas.attempts import Attempt, read_attempts
from ....schemas.errors import NotFound, YardError
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Experiment, Job, UsageRecord, utc_now
from ...prices import Prices
from ..jobs.job_states import WITH_PROCESS
from ..jobs.runs import FlowRun, FlowRuns, PastState
from ..projection.adoption import TICK, identity
from .orgs import read_storage_bytes

logger = logging.getLogger(__name__)

_BATCH = 100
#: Clocks of workers and server may differ so much.
_SKEW = timedelta(seconds=5)
#: Key of an attempt that is of a trial of a sweep, a flow run id, and the moment of that run's state as it was written.
_TRIAL, _AS_OF = "trial", "as_of"
#: Prefect's states in which a process of the job is there, or not yet known to be gone.
_WITH_PROCESS = ("RUNNING", "CANCELLING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What was used, by one attempt or by many."""

    attempts: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Use) -> Use:
        mine, its = asdict(self), asdict(other)
        return Use(**{name: mine[name] + its[name] for name in mine})


@dataclass(slots=True, kw_only=True)
class Line:
    """One line of a roll-up: an experiment, or a data set for conversions."""

    experiment_id: UUID | None
    dataset_id: UUID | None
    name: str = ""
    jobs: set[UUID] = field(default_factory=set)
    use: Use = Use()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What an org used in a span of time; attempts count where they started."""

    total: Use
    jobs: int
    lines: list[Line]
    currency: str
    storage_bytes: int


def past_attempts(history: Sequence[PastState], written: Sequence[Attempt], prices: Prices) -> list[dict[str, Any]]:
    """Return the attempts of a job as its row keeps them; the last one is open while its process runs."""
    found: list[dict[str, Any]] = []
    for state in history:
        is_open = bool(found) and found[-1]["ended_as"] is None
        if state.type in _WITH_PROCESS:
            if not is_open and state.type == "RUNNING":
                found.append({"started_at": state.at.isoformat(), "ended_as": None, "seconds": 0.0})
        elif is_open:
            started_at = datetime.fromisoformat(found[-1]["started_at"])
            found[-1] |= {"ended_as": state.name, "seconds": (state.at - started_at).total_seconds()}
    for attempt in found:
        started_at = datetime.fromisoformat(attempt["started_at"])
        by = [one for one in written if one.at <= started_at + _SKEW]
        if by:
            attempt |= by[-1].model_dump(mode="json")
        attempt["cost"] = prices.of(*_seconds(attempt), attempt.get("gpu_type"))
    return found


def use_of(job: Job, now: datetime, prices: Prices) -> Use:
    """Return what a job has used until now, with the trials of a sweep."""
    return sum((_use(attempt, now, prices) for attempt in _with_open(job)), Use())


def run_seconds(job: Job, now: datetime) -> float:
    """Return how long the attempts of a job have run together until now; the trials of a sweep do not count."""
    return sum(_length(attempt, now) for attempt in _with_open(job) if _TRIAL not in attempt)


class UsageService:
    """Writes what jobs cost when they stop, and adds it up for those who pay."""

    def __init__(self, catalog: Catalog, storage: ArtifactStorage, runs: FlowRuns, prices: Prices) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self.prices = prices

    async def account_all(self) -> None:
        """Bring the accounts of all jobs up to date that have been with a worker since the last time."""
        query = select(Job.id).where(Job.unaccounted.is_(True)).order_by(Job.state_at).limit(_BATCH)
        async with self._catalog.reading() as session:
            ids = list(await session.scalars(query))
        for job_id in ids:
            try:
                await self.account(job_id)
            except (YardError, OSError) as error:
                logger.warning("The account of the job %s is not up to date: %s", job_id, error)

    async def note_sweeps(self) -> None:
        """Have the accounts of sweeps that go on brought up to date: trials come and go while a sweep stays Running."""
        going_on = Job.sweep.is_not(None) & Job.state.in_(WITH_PROCESS)
        async with self._catalog.reading() as session:
            if await session.scalar(select(Job.id).where(going_on).limit(1)) is None:
                return
        async with self._catalog.writing() as session:
            await session.execute(update(Job).where(going_on).values(unaccounted=True))

    async def account(self, job_id: UUID) -> None:
        """Bring the account of a job up to date: attempts, costs and, when it has stopped, its size.

        The trials of a sweep are charged to it.
        """
        async with self._catalog.reading() as session:
            job = await session.get(Job, job_id)
        if job is None:
            return
        trials = await self._runs.read_trials(job_id) if job.sweep is not None else []
        attempts = [*await self._own_attempts(job), *await self._trial_attempts(job, trials)]
        size_bytes = job.size_bytes
        if job.state not in WITH_PROCESS:
            size_bytes = await asyncio.to_thread(self._size_of, job.org, job.id)
        closed = [attempt for attempt in attempts if attempt["ended_as"] is not None]
        total = sum((_use(attempt, utc_now(), self.prices) for attempt in closed), Use())
        async with self._catalog.writing() as session:
            await session.execute(
                update(Job)
                .where(Job.id == job_id)
                .values(
                    attempts=attempts,
                    run_seconds=total.seconds,
                    cpu_seconds=total.cpu_seconds,
                    gpu_seconds=total.gpu_seconds,
                    cost=total.cost,
                    size_bytes=size_bytes,
                )
            )
            # A job that has moved on since is looked at again, and a sweep that has left trials.
            settled = update(Job).where(Job.id == job_id, Job.state_at == job.state_at)
            await session.execute(settled.values(unaccounted=any(_is_leftover(trial, job) for trial in trials)))
            if closed or job.attempts:
                await session.execute(delete(UsageRecord).where(UsageRecord.job_id == job_id))
            session.add_all(_records(job, closed))

    async def account_deleted(self, run: FlowRun, trials: Sequence[FlowRun]) -> None:
        """Keep the account of a job whose row was deleted and whose flow run goes next, with its trials."""
        closed = [attempt for one in (run, *trials) for attempt in await self._attempts_of(one)]
        told = identity(run)
        if not closed or "org" not in told:
            return
        job = Job(
            id=run.id,
            org=told["org"],
            experiment_id=UUID(told["experiment"]) if "experiment" in told else None,
            dataset_id=UUID(told["dataset"]) if "dataset" in told else None,
            action=told.get("action", ""),
        )
        async with self._catalog.writing() as session:
            for record in _records(job, closed):
                await session.merge(record)  # what was written of trials that are gone stays

    async def report(self, org: str, since: datetime | None, until: datetime | None) -> Report:
        """Add up what an org has used; deleted jobs count, running ones until now."""
        now = utc_now()
        lines: dict[tuple[UUID | None, UUID | None], Line] = {}

        def add(owner: UsageRecord | Job, job_id: UUID, use: Use) -> None:
            key = (owner.experiment_id, owner.dataset_id)
            line = lines.setdefault(key, Line(experiment_id=key[0], dataset_id=key[1]))
            line.jobs.add(job_id)
            line.use = line.use + use

        async with self._catalog.reading() as session:
            records = select(UsageRecord).where(UsageRecord.org == org)
            records = records.where(UsageRecord.started_at >= since) if since else records
            records = records.where(UsageRecord.started_at < until) if until else records
            for record in await session.scalars(records):
                use = Use(
                    attempts=1,
                    seconds=record.seconds,
                    cpu_seconds=record.cpu_seconds,
                    gpu_seconds=record.gpu_seconds,
                    cost=record.cost,
                )
                add(record, record.job_id, use)
            for job in await session.scalars(select(Job).where(Job.org == org, Job.state.in_(WITH_PROCESS))):
                for attempt in _with_open(job):
                    started_at = datetime.fromisoformat(attempt["started_at"])
                    inside = (since is None or started_at >= since) and (until is None or started_at < until)
                    if attempt["ended_as"] is None and inside:
                        add(job, job.id, _use(attempt, now, self.prices))
            ids = [line.experiment_id for line in lines.values() if line.experiment_id is not None]
            names = await session.execute(select(Experiment.id, Experiment.name).where(Experiment.id.in_(ids)))
            name_of = {row.id: row.name for row in names}
            storage_bytes = await read_storage_bytes(session, org)
        for line in lines.values():
            line.name = name_of.get(line.experiment_id, "") if line.experiment_id else ""
        ordered = sorted(lines.values(), key=lambda line: (-line.use.cost, -line.use.seconds, str(line.experiment_id)))
        return Report(
            total=sum((line.use for line in ordered), Use()),
            jobs=sum(len(line.jobs) for line in ordered),
            lines=ordered,
            currency=self.prices.currency,
            storage_bytes=storage_bytes,
        )

    async def _own_attempts(self, job: Job) -> list[dict[str, Any]]:
        try:
            return await self._attempts_of(await self._runs.read(job.id))
        except NotFound:  # deleted in Prefect: what is known stays
            return [attempt for attempt in job.attempts if _TRIAL not in attempt]

    async def _trial_attempts(self, job: Job, trials: Sequence[FlowRun]) -> list[dict[str, Any]]:
        """Return the attempts of the trials of a sweep; Prefect is asked for those only whose state is a new one."""
        known: dict[str, list[dict[str, Any]]] = {}
        for attempt in job.attempts:
            if _TRIAL in attempt:
                known.setdefault(attempt[_TRIAL], []).append(attempt)
        for trial in trials:
            trial_id, as_of = str(trial.id), trial.state_at.isoformat()
            if trial.started_at is None or (trial_id in known and known[trial_id][0][_AS_OF] == as_of):
                continue
            if attempts := await self._attempts_of(trial):
                known[trial_id] = [{**attempt, _TRIAL: trial_id, _AS_OF: as_of} for attempt in attempts]
        return [attempt for attempts in known.values() for attempt in attempts]

    async def _attempts_of(self, run: FlowRun) -> list[dict[str, Any]]:
        return past_attempts(await self._runs.read_history(run.id), read_attempts(run.labels), self.prices)

    def _size_of(self, org: str, job_id: UUID) -> int:
        sizes = [file.size_bytes for file in self._storage.list_files(layout.job(org, job_id))]
        for path in (layout.log(org, job_id), layout.earlier_log(org, job_id), layout.download(org, job_id)):
            try:
                sizes.append(self._storage.size(path))
            except NotFound:
                continue
        return sum(sizes)


def _with_open(job: Job) -> Iterable[Mapping[str, Any]]:
    """Return the attempts of a job; one that has just started is not in its account yet."""
    yield from job.attempts
    is_known = any(attempt["ended_as"] is None for attempt in job.attempts if _TRIAL not in attempt)
    if job.state == JobState.RUNNING and not is_known:
        yield {"started_at": job.state_at.isoformat(), "ended_as": None, "seconds": 0.0}


def _length(attempt: Mapping[str, Any], now: datetime) -> float:
    if attempt["ended_as"] is not None:
        return float(attempt["seconds"])
    return max(0.0, (now - datetime.fromisoformat(attempt["started_at"])).total_seconds())


def _seconds(attempt: Mapping[str, Any], now: datetime | None = None) -> tuple[float, float]:
    """Return the CPU and the GPU seconds of an attempt."""
    length = _length(attempt, now) if now is not None else float(attempt["seconds"])
    return length * attempt.get("cpus", 1), length * attempt.get("gpus", 0)


def _use(attempt: Mapping[str, Any], now: datetime, prices: Prices) -> Use:
    cpu_seconds, gpu_seconds = _seconds(attempt, now)
    return Use(
        attempts=1,
        seconds=_length(attempt, now),
        cpu_seconds=cpu_seconds,
        gpu_seconds=gpu_seconds,
        cost=attempt["cost"]
        if attempt["ended_as"] is not None
        else prices.of(cpu_seconds, gpu_seconds, attempt.get("gpu_type")),
    )


def _is_leftover(trial: FlowRun, job: Job) -> bool:
    """Tell whether a trial of a sweep that has stopped has not."""
    if job.state == JobState.PAUSED:
        return trial.state not in (*FINAL, JobState.PAUSED)
    return job.state in FINAL and trial.state not in FINAL


def _records(job: Job, attempts: Sequence[Mapping[str, Any]]) -> list[UsageRecord]:
    """Return attempts as they stay when the job is deleted; no two begin at the same moment."""
    found: dict[datetime, UsageRecord] = {}
    for attempt in attempts:
        started_at = datetime.fromisoformat(attempt["started_at"])
        while started_at in found:
            started_at += TICK
        found[started_at] = _record(job, attempt, started_at)
    return list(found.values())


def _record(job: Job, attempt: Mapping[str, Any], started_at: datetime) -> UsageRecord:
    cpu_seconds, gpu_seconds = _seconds(attempt)
    return UsageRecord(
        job_id=job.id,
        started_at=started_at,
        org=job.org,
        experiment_id=job.experiment_id,
        dataset_id=job.dataset_id,
        action=job.action,
        seconds=attempt["seconds"],
        cpu_seconds=cpu_seconds,
        gpu_seconds=gpu_seconds,
        gpu_type=attempt.get("gpu_type"),
        cost=attempt["cost"],
    )

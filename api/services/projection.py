"""Write what Prefect and the storage say about jobs into the catalog."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ...blocks import ArtifactStorage, layout
from ...schemas.actions import CONVERSIONS, TRAINING, Action
from ...schemas.errors import NotFound, YardError
from ...schemas.jobs import TAG, Datasets
from ...schemas.progress import JobProgress
from ...schemas.results import JobResult
from ...schemas.states import FINAL, JobState
from ..catalog import Catalog
from ..catalog.models import Dataset, Experiment, Job, Org, Purge, utc_now
from .joblog import end_log
from .records import write_record
from .runs import PAGE, FlowRun, FlowRuns

logger = logging.getLogger(__name__)

#: A completed flow run whose files are not there after so long has failed.
RESULT_GRACE = timedelta(seconds=60)
#: Puts a row just behind the flow run, so that the next look takes the state over.
_TICK = timedelta(microseconds=1)
_NOBODYS_MAX = 10_000
#: States of jobs that have not ended.
LIVE = [state for state in JobState if state not in FINAL]


class Projection:
    """Keeps the job rows in step with the flow runs. Every method may be repeated without harm."""

    def __init__(self, catalog: Catalog, storage: ArtifactStorage, runs: FlowRuns) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        #: Flow runs of unknown orgs, so that every comparison does not look at them again.
        self._nobodys: set[UUID] = set()

    async def apply(self, run: FlowRun) -> bool:
        """Bring the row of a job up to date with its flow run; an unknown one is adopted.

        Return False when the flow run is no job of a known org, experiment or data set.
        """
        async with self._catalog.reading() as session:
            job = await session.get(Job, run.id)
        job = job or await self._adopt_run(run)
        if job is None:
            return False
        if run.state_at < job.state_at or (run.state_at == job.state_at and run.state == job.state):
            return True
        values = await self._values(job, run)
        async with self._catalog.writing() as session:
            # guarded: an older report of the same run may have been on its way at the same time
            await session.execute(update(Job).where(Job.id == run.id, Job.state_at <= run.state_at).values(**values))
            if values.get("result") is not None:
                await self._remember_checkpoints(session, job, values["result"])
        if (state := JobState(values["state"])) in FINAL:
            reason = values.get("message", "") if run.started_at is None else ""
            await asyncio.to_thread(end_log, self._storage, job.org, job.id, state, reason)
            await self.settle_children(job.id)
        return True

    async def apply_progress(self, payload: Mapping[str, Any]) -> None:
        """Take the report of a running job; late and repeated ones are dropped."""
        try:
            progress = JobProgress.model_validate(payload)
            job_id = UUID(progress.job_id)
        except (ValidationError, ValueError):
            return
        async with self._catalog.writing() as session:
            job = await session.get(Job, job_id, with_for_update=True)
            if job is None or JobState(job.state) in FINAL:
                return
            if progress.epoch is not None:
                epochs = {epoch["epoch"]: epoch for epoch in job.history}
                epochs[progress.epoch.epoch] = progress.epoch.model_dump(mode="json")
                job.history = [epochs[number] for number in sorted(epochs)]
            if job.progress_at is None or progress.at >= job.progress_at:
                job.progress_at = progress.at
                job.fraction = progress.fraction
                job.message = progress.message[:6400]
                job.eta_s = progress.eta_s
                job.updated_at = utc_now()

    async def settle_children(self, job_id: UUID) -> None:
        """Release or fail the jobs that wait for this one, if it has ended."""
        async with self._catalog.reading() as session:
            parent = await session.get(Job, job_id)
            waiting = (Job.parent_id == job_id) & (Job.state == JobState.WAITING)
            children = list(await session.scalars(select(Job.id).where(waiting)))
        if not children or (parent is not None and JobState(parent.state) not in FINAL):
            return
        if parent is None:
            await self._runs.move_waiting(children, "FAILED", f"The parent job {job_id} does not exist any more.")
        elif parent.state == JobState.DONE:
            await self._runs.move_waiting(children, "SCHEDULED", f"The parent job {job_id} is done.")
        else:
            word = "was cancelled" if parent.state == JobState.CANCELLED else f"failed: {parent.message}"
            await self._runs.move_waiting(children, "FAILED", f"The parent job {job_id} {word}"[:2000])
        for run in await self._runs.read_many(children):
            await self.apply(run)

    async def reconcile(self, *, pages: int) -> None:
        """Compare all live jobs, and up to so many pages of the newest flow runs, with the catalog."""
        async with self._catalog.reading() as session:
            rows = await session.execute(select(Job.id, Job.state, Job.state_at).where(Job.state.in_(LIVE)))
            live = {row.id: (row.state, row.state_at) for row in rows}
        seen = {run.id: run for run in await self._runs.read_many(list(live))}
        for run in seen.values():
            if live[run.id] != (run.state, run.state_at):
                await self.apply(run)
        for missing in set(live) - set(seen):
            await self._lose(missing)
        await self._adopt(pages)
        async with self._catalog.reading() as session:
            parents = set(await session.scalars(select(Job.parent_id).where(Job.state == JobState.WAITING)))
        for parent_id in parents - {None}:
            assert parent_id is not None
            await self.settle_children(parent_id)
        await self.purge()

    async def purge(self) -> None:
        """Free what deleted things left behind, as soon as nothing writes to it any more."""
        async with self._catalog.reading() as session:
            purges = list(await session.scalars(select(Purge)))
        for purge in purges:
            try:
                await self._purge(purge)
            except (YardError, OSError) as error:
                logger.warning("What was deleted could not be freed yet: %s", error)

    async def _purge(self, purge: Purge) -> None:
        if purge.flow_run_id is not None:
            try:
                if (await self._runs.read(purge.flow_run_id)).state not in FINAL:
                    return
            except NotFound:
                pass  # deleted in Prefect
            await self._runs.delete(purge.flow_run_id)
        for path in purge.paths:
            await asyncio.to_thread(self._storage.remove, path)
        async with self._catalog.writing() as session:
            if (row := await session.get(Purge, purge.id)) is not None:
                await session.delete(row)

    async def _adopt(self, pages: int) -> None:
        if len(self._nobodys) > _NOBODYS_MAX:
            self._nobodys.clear()
        for read_page in (self._runs.read_jobs_page, self._runs.read_waiting_page):
            for page_number in range(pages):
                runs = await read_page(page_number * PAGE)
                async with self._catalog.reading() as session:
                    known = set(await session.scalars(select(Job.id).where(Job.id.in_([run.id for run in runs]))))
                fresh = [run for run in runs if run.id not in known and run.id not in self._nobodys]
                for run in fresh:
                    if not await self.apply(run):
                        self._nobodys.add(run.id)
                if len(runs) < PAGE or not fresh:
                    break

    async def _lose(self, job_id: UUID) -> None:
        """Fail a job whose flow run was deleted in Prefect."""
        now = utc_now()
        async with self._catalog.writing() as session:
            job = await session.get(Job, job_id)
            if job is None or JobState(job.state) in FINAL:
                return
            job.state, job.state_at, job.ended_at, job.updated_at = JobState.FAILED, now, now, now
            job.message = "The flow run of this job was deleted in Prefect."
        await asyncio.to_thread(end_log, self._storage, job.org, job_id, JobState.FAILED)
        await self.settle_children(job_id)

    async def _values(self, job: Job, run: FlowRun) -> dict[str, Any]:
        """Return the columns that follow from the state of the flow run."""
        values: dict[str, Any] = {
            "state": run.state,
            "state_at": run.state_at,
            "started_at": run.started_at,
            "updated_at": utc_now(),
        }
        if run.state in (JobState.WAITING, JobState.PENDING):
            values |= {"message": "", "ended_at": None, "eta_s": None, "result": None}
            values |= {"tar_size_bytes": None, "tar_sha256": None}
        elif run.state == JobState.DONE:
            values |= await self._outcome(run, job.org)
        elif run.state in FINAL:
            values |= {"message": _reason(run), "ended_at": run.ended_at or run.state_at, "eta_s": None}
        return values

    async def _outcome(self, run: FlowRun, org: str) -> dict[str, Any]:
        """Return what a completed job shows; it is not done before its files are there."""
        try:
            result, stats = await asyncio.to_thread(self._read_outcome, org, run.id)
        except (YardError, ValidationError, ValueError) as error:
            if utc_now() - run.state_at < RESULT_GRACE:
                # `state_at` stays behind Prefect's, so that the next look comes here again
                return {"state": JobState.RUNNING, "state_at": run.state_at - _TICK}
            reason = f"The job completed but left no result: {error}"
            return {"state": JobState.FAILED, "message": reason[:6400], "ended_at": run.state_at, "eta_s": None}
        history = [epoch.model_dump(mode="json") for epoch in result.history]
        return {
            "result": result.model_dump(mode="json", exclude={"history"}),
            "tar_size_bytes": int(stats["file_size"]),
            "tar_sha256": str(stats["sha256_digest"]),
            "message": result.message[:6400],
            "fraction": 1.0,
            "eta_s": None,
            "ended_at": run.ended_at or run.state_at,
            **({"history": history} if history else {}),
        }

    def _read_outcome(self, org: str, job_id: UUID) -> tuple[JobResult, Mapping[str, Any]]:
        result = JobResult.model_validate(self._storage.read_json(f"{layout.job(org, job_id)}/result.json"))
        return result, self._storage.read_json(layout.download_stats(org, job_id))

    async def _remember_checkpoints(self, session: AsyncSession, job: Job, result: Mapping[str, Any]) -> None:
        """Write the best and the latest epoch of a training job into its experiment."""
        if job.action not in TRAINING or job.experiment_id is None:
            return
        experiment = await session.get(Experiment, job.experiment_id)
        if experiment is None:
            return
        epochs = {f"best_model_{job.id}": result["best_epoch"], f"latest_model_{job.id}": result["latest_epoch"]}
        experiment.checkpoint_epochs = experiment.checkpoint_epochs | {k: v for k, v in epochs.items() if v is not None}
        await write_record(session, self._storage, experiment)

    async def _adopt_run(self, run: FlowRun) -> Job | None:
        """Return the new row of a flow run that somebody started without the facade, None if it is no job."""
        async with self._catalog.reading() as session:
            job = await self._adopted(session, run)
        if job is None:
            return None
        try:
            async with self._catalog.writing() as session:
                session.add(job)
        except IntegrityError:  # the facade wrote the row of its own job just now
            async with self._catalog.reading() as session:
                return await session.get(Job, run.id)
        return job

    async def _adopted(self, session: AsyncSession, run: FlowRun) -> Job | None:
        """Return a row, not yet added, for a flow run; None if it is of no known org, experiment or data set."""
        if await _is_purged(session, run.id):
            return None
        identity = _identity(run)
        try:
            action = Action(identity.get("action", ""))
            experiment_id, dataset_id, parent_id = (
                _uuid(identity.get(name)) for name in ("experiment", "dataset", "parent")
            )
            chosen = Datasets.model_validate(run.parameters.get("datasets") or {})
        except ValueError:
            return None
        org = await session.get(Org, identity.get("org", ""))
        if org is None:
            return None
        network = identity.get("network")
        dataset_ids: list[UUID]
        if action in CONVERSIONS:
            dataset = await session.get(Dataset, dataset_id) if dataset_id else None
            if dataset is None or dataset.org != org.name:
                return None
            experiment_id, network, dataset_ids = None, None, [dataset.id]
        else:
            experiment = await session.get(Experiment, experiment_id) if experiment_id else None
            if experiment is None or experiment.org != org.name:
                return None
            dataset_id, network = None, network or experiment.network
            dataset_ids = [*chosen.train, *(i for i in (chosen.eval, chosen.inference, chosen.calibration) if i)]
        spec = run.parameters.get("spec")
        return Job(
            id=run.id,
            org=org.name,
            experiment_id=experiment_id,
            dataset_id=dataset_id,
            action=action,
            network=network,
            parent_id=parent_id,
            name=str(run.parameters.get("name") or run.name)[:500],
            description="",
            spec=spec if isinstance(spec, dict) else {},
            dataset_ids=[str(i) for i in dataset_ids],
            state=JobState.PENDING,
            state_at=run.state_at - _TICK,
            message="",
            fraction=0.0,
            history=[],
            created_at=run.created_at,
        )


def _identity(run: FlowRun) -> dict[str, str]:
    """Return what tags and parameters say about who a job belongs to."""
    found = {
        name: str(value)
        for name, key in (
            ("org", "org"),
            ("network", "network"),
            ("experiment", "experiment_id"),
            ("dataset", "dataset_id"),
            ("parent", "parent_job_id"),
        )
        if (value := run.parameters.get(key))
    }
    for tag in run.tags:
        name, _, value = tag.removeprefix(TAG).partition(":")
        if tag.startswith(TAG) and value:
            found.setdefault(name, value)
    return found


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def _reason(run: FlowRun) -> str:
    """Return why a job ended, without the words that Prefect puts before an exception."""
    text = run.message.removeprefix("Flow run encountered an exception: ").strip()
    name, _, rest = text.partition(": ")
    if rest and name.isidentifier():
        text = rest
    if not text:
        text = "Cancelled." if run.state == JobState.CANCELLED else f"The flow run ended as {run.state_name}."
    return text[:6400]


async def _is_purged(session: AsyncSession, run_id: UUID) -> bool:
    return await session.scalar(select(Purge.id).where(Purge.flow_run_id == run_id)) is not None

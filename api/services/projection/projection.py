"""Write what Prefect and the storage say about jobs into the catalog."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....schemas.actions import TRAINING
from ....schemas.errors import NotFound, YardError
from ....schemas.results import JobResult
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Experiment, Job, utc_now
from ..experiments.records import write_record
from ..files.joblog import end_log
from ..jobs.busy import BusyJobs
from ..jobs.holds import told_to
from ..jobs.job_states import LIVE, WITH_PROCESS
from ..jobs.runs import PAGE, FlowRun, FlowRuns
from ..jobs.settling import Settler
from ..jobs.trials import Trials
from .adoption import TICK, adopt_run
from .progress import ProgressBook

#: A completed flow run whose files are not there after so long has failed.
RESULT_GRACE = timedelta(seconds=60)
_NOBODYS_MAX = 10_000
_PAGES_AT_START, _PAGES_ON_TIMER = 50, 2
#: A pending job with this name of its state has lost a process or a worker.
AWAITING_RETRY = "AwaitingRetry"


class Projection:
    """Keeps the job rows in step with the flow runs. Every method may be repeated without harm."""

    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        runs: FlowRuns,
        settler: Settler,
        progress: ProgressBook,
        busy: BusyJobs,
        trials: Trials,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._settler = settler
        self._progress = progress
        self._busy = busy
        self._trials = trials
        #: Flow runs of unknown orgs, so that every comparison does not look at them again.
        self._nobodys: set[UUID] = set()

    async def knows(self, run_id: UUID, at: datetime) -> bool:
        """Tell whether the row of a job is not behind what happened to it at a moment."""
        async with self._catalog.reading() as session:
            state_at = await session.scalar(select(Job.state_at).where(Job.id == run_id))
        return state_at is not None and state_at >= at

    async def apply(self, run: FlowRun) -> bool:
        """Bring the row of a job up to date with its flow run; an unknown one is adopted.

        Return False when the flow run is no job of a known org, experiment or data set.

        Raises:
            NotFound: an unknown one that is not in Prefect any more.
        """
        async with self._catalog.reading() as session:
            job = await session.get(Job, run.id)
        job = job or await adopt_run(self._catalog, self._runs, run.id)
        if job is None:
            return False
        if _is_news(job, run):
            # why: a late end of the log must not come after somebody has resumed the job
            async with self._busy.changing([run.id]) as waited:
                # What was read before may have been put right by whoever was busy with the job.
                stopped = await self._write(await self._runs.read(run.id) if waited else run)
            if stopped is not None:
                await self.follow_up(job, stopped)
        return True

    async def _write(self, run: FlowRun) -> JobState | None:
        """Write the state of a flow run into its row; return it if the job has stopped by it."""
        async with self._catalog.reading() as session:
            job = await session.get(Job, run.id)
        if job is None or not _is_news(job, run):  # somebody was faster
            return None
        values = await self._values(job, run)
        state = JobState(values["state"])
        stopped = state in FINAL or state == JobState.PAUSED
        if state in FINAL and job.sweep is not None:
            # Its last report says how it ended, and an ended job takes no more reports.
            await self._progress.catch_up(job)
        if stopped:
            # A process says itself how it ended; nobody else speaks for a job that had none.
            had_process = job.state in WITH_PROCESS and state != JobState.PAUSED
            reason = "" if had_process else values.get("message", "")
            # Before the row: who is killed in between finds the job live and does both again.
            await asyncio.to_thread(end_log, self._storage, job.org, job.id, state, reason)
        async with self._catalog.writing() as session:
            await session.execute(update(Job).where(Job.id == run.id, Job.state_at <= run.state_at).values(**values))
            if values.get("result") is not None:
                await self._remember_checkpoints(session, job, values["result"])
        return state if stopped else None

    async def reconcile(self, *, thorough: bool) -> None:
        """Compare all live jobs and the newest flow runs with the catalog.

        `thorough` looks at many more flow runs, and at what jobs reported in the meantime: for starts and reconnects.
        """
        async with self._catalog.reading() as session:
            rows = await session.execute(select(Job.id, Job.state, Job.state_at).where(Job.state.in_(LIVE)))
            live = {row.id: (row.state, row.state_at) for row in rows}
        # Many jobs may wait for long, so those that still do are only counted.
        still = await self._runs.find_held([job_id for job_id, (state, _) in live.items() if state == JobState.WAITING])
        seen = {run.id: run for run in await self._runs.read_many([job_id for job_id in live if job_id not in still])}
        for run in seen.values():
            if thorough and run.started_at is not None and run.state != JobState.DONE:
                await self._catch_up(run.id)
            if live[run.id] != (run.state, run.state_at):
                with contextlib.suppress(NotFound):  # deleted since
                    await self.apply(run)
        for missing in set(live) - set(seen) - still:
            await self._lose(missing)
        await self._adopt(_PAGES_AT_START if thorough else _PAGES_ON_TIMER)
        await self._settler.settle_all()

    async def _catch_up(self, job_id: UUID) -> None:
        async with self._catalog.reading() as session:
            job = await session.get(Job, job_id)
        if job is not None:
            await self._progress.catch_up(job)

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
                    with contextlib.suppress(NotFound):  # deleted since
                        if not await self.apply(run):
                            self._nobodys.add(run.id)
                if len(runs) < PAGE or not fresh:
                    break

    async def _lose(self, job_id: UUID) -> None:
        """Fail a job whose flow run was deleted in Prefect."""
        async with self._busy.changing([job_id]):
            now = utc_now()
            async with self._catalog.writing() as session:
                job = await session.get(Job, job_id)
                if job is None or JobState(job.state) in FINAL:
                    return
                job.state, job.state_at, job.ended_at, job.updated_at = JobState.FAILED, now, now, now
                job.state_name, job.due_at = "Deleted", None
                job.unaccounted = job.unaccounted or job.sweep is not None
                job.message = "The flow run of this job was deleted in Prefect."
            await asyncio.to_thread(end_log, self._storage, job.org, job_id, JobState.FAILED, job.message)
        await self.follow_up(job, JobState.FAILED)

    async def follow_up(self, job: Job, state: JobState) -> None:
        """Do what follows for others when a job has stopped; once more does no harm."""
        await self._settler.settle_after(job, state)
        if job.sweep is not None:
            await self._trials.stop_after(job.id)

    async def _values(self, job: Job, run: FlowRun) -> dict[str, Any]:
        """Return the columns that follow from the state of the flow run."""
        queued = run.state == JobState.PENDING and run.state_type == "SCHEDULED"
        values: dict[str, Any] = {
            "state": run.state,
            "state_name": run.state_name[:100],
            "state_at": run.state_at,
            "due_at": run.due_at if queued else None,
            "started_at": run.started_at,
            "updated_at": utc_now(),
        }
        if run.started_at is not None:
            values["unaccounted"] = True
        if run.state in (JobState.WAITING, JobState.PENDING):
            told = run.state_name == AWAITING_RETRY or run.state_type == "PENDING"
            values |= {"message": run.message[:6400] if told else "", "ended_at": None, "eta_s": None, "result": None}
            values |= {"tar_size_bytes": None, "tar_sha256": None}
            if job.state == JobState.DONE:
                values["fraction"] = 0.0
            if run.state == JobState.PENDING and (job.state != JobState.PENDING or job.pending_at is None):
                values["pending_at"] = run.state_at
        elif run.state == JobState.RUNNING:
            if job.state in (JobState.WAITING, JobState.PENDING):
                values["message"] = ""
        elif run.state == JobState.DONE:
            values |= await self._outcome(run, job.org)
        elif run.state in FINAL:
            reason = told_to(job.parent_id, _reason(run))[:6400]
            values |= {"message": reason, "ended_at": run.ended_at or run.state_at, "eta_s": None}
        else:
            values |= {"message": run.message[:6400], "eta_s": None}
        return values

    async def _outcome(self, run: FlowRun, org: str) -> dict[str, Any]:
        """Return what a completed job shows; it is not done before its files are there."""
        try:
            result, stats = await asyncio.to_thread(self._read_outcome, org, run.id)
        except (YardError, ValidationError, ValueError) as error:
            if utc_now() - run.state_at < RESULT_GRACE:
                # `state_at` stays behind Prefect's, so that the next look comes here again
                return {"state": JobState.RUNNING, "state_at": run.state_at - TICK}
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


def _is_news(job: Job, run: FlowRun) -> bool:
    """Tell whether a flow run is further than the row of its job."""
    return run.state_at > job.state_at or (run.state_at == job.state_at and run.state != job.state)


def _reason(run: FlowRun) -> str:
    """Return why a job ended, without the words that Prefect puts before an exception."""
    text = run.message.removeprefix("Flow run encountered an exception: ").strip()
    name, _, rest = text.partition(": ")
    if rest and name.isidentifier():
        text = rest
    if not text:
        text = "Cancelled." if run.state == JobState.CANCELLED else f"The flow run ended as {run.state_name}."
    return text[:6400]

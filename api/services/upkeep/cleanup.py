"""What may go, and how it goes: jobs with everything that they left in the storage, in Prefect and in MLflow."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Collection, Sequence
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....schemas.actions import CONVERSIONS
from ....schemas.errors import InUse, NotFound, Unavailable, YardError
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Experiment, Job, Purge
from ..access import read_job
from ..accounts.usage import UsageService
from ..jobs.job_states import LIVE
from ..jobs.runs import FlowRun, FlowRuns
from ..jobs.stopping import CANCEL, stop_run
from ..projection.projection import Projection
from .mlflow_runs import MlflowRun, MlflowRuns

logger = logging.getLogger(__name__)

#: A deletion answers after so long, and what is left to free is freed after the answer.
_PATIENCE_S = 20.0
#: In the folder of a job: which MLflow run it has.
_RUN_FILE = "mlflow_run.json"


async def needed(
    session: AsyncSession,
    jobs: Sequence[Job],
    *,
    registered: Collection[str] = (),
    ended: bool = False,
    with_owner: bool = False,
) -> dict[UUID, str]:
    """Return why jobs must stay; those that may go are not in it.

    Deletion, retention and every list of what would go ask here. `registered` are the MLflow runs that the registry
    needs. With `ended` the state does not count: whoever asks ends them. With `with_owner` they go together with
    their experiment or data set.
    """
    going = {job.id for job in jobs} if with_owner else set()
    live = Job.state.in_(LIVE)
    children = await session.execute(
        select(Job.parent_id, Job.id).where(Job.parent_id.in_([job.id for job in jobs]), live)
    )
    child_of = {parent: child for parent, child in children if child not in going}
    orgs = {job.org for job in jobs if job.action in CONVERSIONS}
    readers = [
        (reader, dataset_ids)
        for reader, dataset_ids in await session.execute(select(Job.id, Job.dataset_ids).where(Job.org.in_(orgs), live))
    ]
    owners = {job.experiment_id for job in jobs if job.experiment_id is not None and not with_owner}
    pinned = {
        pin
        for experiment in await session.scalars(select(Experiment).where(Experiment.id.in_(owners)))
        if experiment.checkpoint == "from_epoch_number"
        for pin in experiment.checkpoint_epochs
    }

    def reason(job: Job) -> str | None:
        if not ended and JobState(job.state) not in FINAL:
            return "The job has not ended."
        if (child := child_of.get(job.id)) is not None:
            return f"The job {child} starts from the result."
        if job.result is not None and (run := job.result.get("mlflow_run_id")) in registered:
            return f"A registered model comes from its MLflow run {run}."
        if job.action in CONVERSIONS:
            for reader, dataset_ids in readers:
                if reader != job.id and reader not in going and str(job.dataset_id) in dataset_ids:
                    return f"The job {reader} reads the data set that this one indexed."
        if f"from_epoch_number_{job.id}" in pinned:
            return "Its experiment starts new jobs from one of its epochs."
        return None

    return {job.id: why for job in jobs if (why := reason(job)) is not None}


class CleanUp:
    """Frees what was deleted. Everything may be repeated without harm."""

    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        runs: FlowRuns,
        mlflow: MlflowRuns,
        projection: Projection,
        usage: UsageService,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._mlflow = mlflow
        self._projection = projection
        self._usage = usage
        #: Purges that are being worked on, so that no byte is counted twice.
        self._at_work: set[UUID] = set()
        #: Purges of which only what the registry needs is left.
        self._held: set[UUID] = set()
        self._task: asyncio.Task[None] | None = None

    async def registered(self) -> frozenset[str]:
        """Return the MLflow runs that the registry needs; none while MLflow is away.

        That does no harm: nothing of a job is freed before MLflow was asked again.
        """
        try:
            return await self._mlflow.registered()
        except Unavailable as error:
            logger.warning("%s", error)
            return frozenset()

    async def delete_job(self, org: str, job_id: UUID) -> int:
        """Delete a job that has ended or is paused; return the bytes that this freed by now.

        Raises:
            InUse: it is needed; see `needed`.
        """
        registered = await self.registered()
        async with self._catalog.reading() as session:
            job = await read_job(session, org, job_id)
            paused = job.state == JobState.PAUSED
            refuse(await needed(session, [job], registered=registered, ended=paused))
        if paused:
            await self._projection.apply(await stop_run(self._runs, job_id, CANCEL, "Deleted by the user."))
        return await self.delete_ended(org, job_id, registered)

    async def delete_ended(self, org: str, job_id: UUID, registered: Collection[str]) -> int:
        """As `delete_job`, for a job that has ended; `registered` as for `needed`."""
        async with self._catalog.writing() as session:
            job = await read_job(session, org, job_id, lock=True)
            refuse(await needed(session, [job], registered=registered))
            purge = purge_of(job)
            self._at_work.add(purge.id)
            session.add(purge)
            await session.delete(job)
        return await self.finish(purge) or 0

    async def stop(self, jobs: Sequence[Job], message: str) -> None:
        """End the flow runs of jobs that are deleted already and had not ended."""
        for job in jobs:
            if JobState(job.state) not in FINAL:
                with contextlib.suppress(NotFound):
                    await stop_run(self._runs, job.id, CANCEL, message)

    async def purge(self) -> None:
        """Free what deleted things left behind, and wait for it for a while."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._purge_all())
        await asyncio.wait({self._task}, timeout=_PATIENCE_S)

    async def _purge_all(self) -> None:
        tried: set[UUID] = set()
        while purges := [purge for purge in await self.pending() if purge.id not in tried]:
            for purge in purges:
                tried.add(purge.id)
                if purge.id in self._at_work:
                    continue
                if await self.finish(purge) is None:
                    return  # a server is away, and would be for the others

    async def pending(self, *, held: bool = False) -> list[Purge]:
        """Return what is still to be freed; with `held` also what waited for the registry the last time."""
        async with self._catalog.reading() as session:
            purges = await session.scalars(select(Purge).order_by(Purge.created_at))
            return [p for p in purges if p.id not in self._at_work and (held or p.id not in self._held)]

    async def finish(self, purge: Purge) -> int | None:
        """Free what a deleted thing left behind, as soon as nothing writes to it any more; return the bytes.

        None says that a server does not answer: it is tried again later.
        """
        self._at_work.add(purge.id)
        try:
            return await self._free(purge)
        except Unavailable as error:
            logger.warning("What was deleted could not be freed yet: %s", error)
            return None
        except (YardError, OSError) as error:
            logger.warning("What was deleted could not be freed yet: %s", error)
            return 0
        finally:
            self._at_work.discard(purge.id)

    async def _free(self, purge: Purge) -> int:
        freed, held, run = 0, False, None
        trials: list[FlowRun] = []
        if purge.flow_run_id is not None:
            run = await self._stopped(purge.flow_run_id)
            if run is not None and run.state not in FINAL:
                return 0
            trials = await self._runs.read_trials(purge.flow_run_id)
            if not await self._have_ended(trials):
                return 0
            # First what needs the most servers, and last what all the rest is found by.
            registered = await self._mlflow.registered()
            for recorded in await self._mlflow_runs(purge):
                if recorded["run_id"] in registered:
                    held = True
                else:
                    freed += await self._mlflow.free(recorded)
        for path in purge.paths:
            freed += await asyncio.to_thread(self._storage.remove, path)
        if run is not None:
            await self._usage.account_deleted(run, trials)
        for gone in (*trials, *([run] if run is not None else [])):
            await self._runs.delete(gone.id)
        if held:
            self._held.add(purge.id)
            return freed
        async with self._catalog.writing() as session:
            if (row := await session.get(Purge, purge.id)) is not None:
                await session.delete(row)
        self._held.discard(purge.id)
        return freed

    async def size(self, purge: Purge) -> int | None:
        """Return the bytes that `finish` would free now, None when there is nothing to do."""
        total, held = 0, False
        if purge.flow_run_id is not None:
            try:
                if (await self._runs.read(purge.flow_run_id)).state not in FINAL:
                    return None
            except NotFound:
                pass  # deleted in Prefect
            registered = await self._mlflow.registered()
            for run in await self._mlflow_runs(purge):
                if run["run_id"] in registered:
                    held = True
                else:
                    total += await self._mlflow.size(run)
        for path in purge.paths:
            total += await asyncio.to_thread(stored_bytes, self._storage, path)
        return None if held and not total else total

    async def _stopped(self, run_id: UUID) -> FlowRun | None:
        """Return the flow run of a deleted job, at its end or on the way there; None when it is gone."""
        try:
            return await stop_run(self._runs, run_id, CANCEL, "Deleted by the user.")
        except NotFound:
            return None

    async def _have_ended(self, trials: Sequence[FlowRun]) -> bool:
        """Stop the trials of a deleted sweep; tell whether none of them writes any more."""
        left = [trial for trial in trials if trial.state not in FINAL]
        stopped = [await self._stopped(trial.id) for trial in left]
        return all(trial is None or trial.state in FINAL for trial in stopped)

    async def _mlflow_runs(self, purge: Purge) -> list[MlflowRun]:
        assert purge.flow_run_id is not None
        folder = purge.paths[0]
        try:
            recorded = json.loads(await asyncio.to_thread(self._storage.read_bytes, f"{folder}/{_RUN_FILE}"))
            run_id = str(recorded["run_id"])
        except (NotFound, ValueError, KeyError, TypeError):
            run_id = None  # it never came so far
        return await self._mlflow.runs_of(folder.partition("/")[0], purge.flow_run_id, run_id)


def purge_of(job: Job) -> Purge:
    """Return what has to go when a job goes: its files and its flow run."""
    download = layout.download(job.org, job.id)
    paths = [
        layout.job(job.org, job.id),
        layout.log(job.org, job.id),
        layout.earlier_log(job.org, job.id),
        download,
        layout.download_stats(job.org, job.id),
    ]
    return Purge(id=uuid4(), paths=paths, flow_run_id=job.id)


def refuse(reasons: dict[UUID, str]) -> None:
    """Raise `InUse` with the first of the reasons, if there is one."""
    for why in reasons.values():
        raise InUse(why, hint="Wait for the jobs in the way or cancel them; `trainyard gc` never removes it.")


def stored_bytes(storage: ArtifactStorage, path: str) -> int:
    """Return the bytes of a file or of all below a folder; absent is nothing."""
    return sum(file.size_bytes for file in storage.list_files(path, internal=True))

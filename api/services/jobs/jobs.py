"""Jobs: start them as flow runs, stop them, let them go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import literal, select
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from ....blocks import ArtifactStorage, layout
from ....schemas.actions import TRAINING, Action
from ....schemas.errors import ActionNotAllowed, InvalidInput, NotFound, YardError
from ....schemas.states import AWAITING_PARENT, FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Dataset, Job, utc_now
from ..access import read_dataset, read_experiment, read_job
from ..accounts.orgs import refuse_full_storage
from ..experiments.specs import checked_spec
from ..files.joblog import end_log, reopen_log, start_log
from ..paging import Page, read_page
from ..projection.projection import Projection
from .busy import BusyJobs
from .holds import Doomed, Held
from .job_states import LIVE
from .planning import NewJob, Owner, Plan, Planner
from .reasons import JobView, Reasons
from .runs import FlowRun, FlowRuns, NextState
from .settling import Settler
from .stopping import CANCEL, PAUSE, Stop, stop_run
from .sweeps import SweepService
from .variables import VariableBook

#: In the way of the first jobs of a request until all of them are there.
_TOGETHER = Held(AWAITING_PARENT, "Waiting for the other jobs of the request.")


class JobEnded(NotFound):
    """What is asked for needs a job that has not ended."""


class JobService:
    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        runs: FlowRuns,
        projection: Projection,
        settler: Settler,
        busy: BusyJobs,
        reasons: Reasons,
        variables: VariableBook,
        sweeps: SweepService,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._projection = projection
        self._settler = settler
        self._busy = busy
        self._reasons = reasons
        self._variables = variables
        self._sweeps = sweeps
        self._planner = Planner(catalog, storage, sweeps)

    async def run(self, owner: Owner, asked: NewJob) -> UUID:
        """Start a job, now or when nothing is in its way any more, and return its id.

        Raises:
            NotFound: no such experiment, data set or parent.
            InvalidInput: the action, its spec, its data or its parent do not fit; nothing was started.
            QuotaExceeded: the org keeps more files than it may.
        """
        return (await self.run_chain(owner, [asked]))[0]

    async def run_chain(self, owner: Owner, asked: Sequence[NewJob]) -> list[UUID]:
        """Start several jobs, all of them or none, and return their ids.

        Each starts from the latest one before it that its action can start from, else from the parent it names.
        """
        plans: list[Plan] = []
        for job in asked:
            plans.append(await self._planner.plan(owner, job, plans))
        async with self._catalog.reading() as session:
            await refuse_full_storage(session, owner.org)
            secret = await self._variables.read_sealed(session, owner.experiment_id or owner.dataset_id)
        made: list[UUID] = []
        try:
            for plan in plans:
                parent_id = plan.parent_id if plan.after is None else made[plan.after]
                await self._start(owner, plan, parent_id, made, together=len(plans) > 1, secret=secret)
        except BaseException:
            await asyncio.shield(self._forget(made))
            raise
        # why: what was in the way may have gone between the look at it and the new rows
        await self._settler.settle_jobs(owner.org, made)
        return made

    async def start_held(self, owner: Owner, plan: Plan, held: Held, secret: bytes | None = None) -> UUID:
        """Make a job that is held back until whoever asks has done the rest and calls `settle`; return its id.

        `secret` are its variables, encrypted.

        Raises:
            QuotaExceeded: the org keeps more files than it may.
        """
        async with self._catalog.reading() as session:
            await refuse_full_storage(session, owner.org)
        made: list[UUID] = []
        try:
            await self._start(owner, plan, plan.parent_id, made, first=held, secret=secret)
        except BaseException:
            await asyncio.shield(self._forget(made))
            raise
        return made[0]

    async def settle(self, org: str, job_id: UUID) -> None:
        """Let a job go when nothing is in its way any more."""
        await self._settler.settle_jobs(org, [job_id])

    async def forget(self, job_id: UUID) -> None:
        """Take back a job that could not be made to its end."""
        await asyncio.shield(self._forget([job_id]))

    async def read(self, owner: Owner, job_id: UUID) -> Job:
        async with self._catalog.reading() as session:
            return await self._read(session, owner, job_id)

    async def read_view(self, owner: Owner, job_id: UUID) -> JobView:
        """Return a job and the sentence about it."""
        async with self._catalog.reading() as session:
            return await self._reasons.view(session, await self._read(session, owner, job_id))

    async def read_list(self, owner: Owner, page: Page) -> tuple[list[JobView], int]:
        """Return a page of the jobs of an experiment, of a data set or of all in the org, and the total."""
        async with self._catalog.reading() as session:
            # why without the org: what an experiment has is its org's, and counting takes half as long
            if owner.experiment_id is not None:
                await read_experiment(session, owner.org, owner.experiment_id)
                query = select(Job).where(Job.experiment_id == owner.experiment_id)
            elif owner.dataset_id is not None:
                await read_dataset(session, owner.org, owner.dataset_id)
                query = select(Job).where(Job.dataset_id == owner.dataset_id)
            else:
                column = Job.dataset_id if owner.of_datasets else Job.experiment_id
                query = select(Job).where(Job.org == owner.org, column.is_not(None))
            rows, total = await read_page(session, query, Job, page)
            return await self._reasons.views(session, rows), total

    async def cancel(self, owner: Owner, job_id: UUID) -> None:
        """End a job: at once where it has no process, else as soon as that is gone. Its children end with it.

        Raises:
            JobEnded: it has ended already.
            NotFound: no such job.
        """
        await self._stop(await self.read(owner, job_id), CANCEL, "Cancelled by the user.")

    async def pause(self, owner: Owner, job_id: UUID) -> None:
        """Let a training job save and free its worker. Its children go on waiting.

        Raises:
            JobEnded: it has ended already.
            NotFound: no such job, or one that does not train.
        """
        job = await self.read(owner, job_id)
        if Action(job.action) not in TRAINING:
            raise NotFound("Only train and retrain can be paused.", hint="Cancel the job instead.")
        await self._stop(job, PAUSE, "Paused by the user.")

    async def cancel_or_pause(self, owner: Owner, job_id: UUID) -> None:
        """Pause a training job, and end any other and one that is paused or being paused already.

        Raises:
            JobEnded: it has ended already.
            NotFound: no such job.
        """
        job = await self.read(owner, job_id)
        if Action(job.action) in TRAINING and job.state not in (JobState.PAUSED, JobState.PAUSING):
            await self._stop(job, PAUSE, "Paused by the user.")
        else:
            await self._stop(job, CANCEL, "Cancelled by the user.")

    async def resume(self, owner: Owner, job_id: UUID, *, parent_id: UUID | None, spec: object) -> None:
        """Go on with a cancelled or paused training job under the same id, from its newest checkpoint.

        A sweep goes on with the settings that its experiment has now, also when it has failed; one that is done, when
        they ask for more.

        Raises:
            ActionNotAllowed: no training job, or one that is not cancelled or paused.
            InvalidInput: another parent, spec or search that does not fit.
        """
        if (await self.read(owner, job_id)).state in (JobState.PAUSING, JobState.CANCELLING):
            # Its process may have ended this very moment.
            await self._projection.apply(await self._runs.read(job_id))
        async with self._busy.changing([job_id]):
            await self._resume(owner, job_id, parent_id, spec)
        await self._projection.apply(await self._runs.read(job_id))
        await self._settler.settle_jobs(owner.org, [job_id])

    async def _resume(self, owner: Owner, job_id: UUID, parent_id: UUID | None, spec: object) -> None:
        job = await self.read(owner, job_id)
        _refuse_to_resume(job)
        if job.state == JobState.DONE:
            await self._refuse_live_children(job_id)
        run, said = await self._runs.read(job_id), "Resumed by the user."
        path = layout.resume(owner.org, job_id)
        before = await asyncio.to_thread(self._read_changes, path)
        changes = before | await self._changes(owner.org, job, parent_id, spec)
        if job.sweep is not None:
            settings, note = await self._sweeps.settings_to_go_on(job, {**run.parameters, **changes})
            changes["settings"] = settings.model_dump(mode="json", exclude_none=True)
            said += note
        found = await self._settler.hold_of(owner.org, parent_id or job.parent_id, [UUID(i) for i in job.dataset_ids])
        if isinstance(found, Doomed):
            raise InvalidInput(f"The job cannot go on: {found.reason}", hint="Run a new job.")
        if changes:
            await asyncio.to_thread(self._storage.write_json, path, changes)
            async with self._catalog.writing() as session:
                row = await read_job(session, owner.org, job_id, lock=True)
                row.spec = dict(spec) if isinstance(spec, Mapping) and spec else row.spec
                row.parent_id = parent_id or row.parent_id
        await asyncio.to_thread(reopen_log, self._storage, owner.org, job_id, said)
        if run.infrastructure_pid and not run.owned:
            await self._runs.forget_process(job_id)
        state = NextState(type="SCHEDULED", name="Resuming", message="Resumed by the user.")
        if found is not None:
            state = NextState(type="SCHEDULED", name=found.name, message=found.sentence, far=True)
        ended = job.state in (JobState.DONE, JobState.FAILED)
        types = ["COMPLETED", "FAILED", "CRASHED"] if ended else ["PAUSED", "CANCELLED"]
        # Prefect's own rules let no run go on that has completed.
        if not await self._runs.move_one(job_id, state, types=types, force=ended):
            await asyncio.to_thread(end_log, self._storage, owner.org, job_id, JobState(job.state))
            raise ActionNotAllowed("The job was changed in Prefect meanwhile.", hint="Look at it again.")

    async def _changes(self, org: str, job: Job, parent_id: UUID | None, spec: object) -> dict[str, Any]:
        """Return what a job gets instead of parameters of its flow run."""
        action = Action(job.action)
        assert job.network is not None, "only training jobs are resumed"
        changes: dict[str, Any] = {"spec": checked_spec(action, job.network, spec)} if spec else {}
        if parent_id is not None and parent_id != job.parent_id:
            await self._planner.read_parent(org, action, parent_id, job.network)
            await self._refuse_cycle(job.id, parent_id)
            changes["parent_job_id"] = str(parent_id)
        return changes

    def _read_changes(self, path: str) -> dict[str, Any]:
        """Return what the job got when it was resumed before."""
        return dict(self._storage.read_json(path)) if self._storage.exists(path) else {}

    async def _refuse_live_children(self, job_id: UUID) -> None:
        """Raise while a child of a job reads its result, or is about to."""
        query = select(Job.id).where(Job.parent_id == job_id, Job.state.in_(LIVE)).limit(1)
        async with self._catalog.reading() as session:
            if (child := await session.scalar(query)) is not None:
                raise ActionNotAllowed(
                    f"The job {child} starts from the result, which would change.", hint="Wait for it or cancel it."
                )

    async def _refuse_cycle(self, job_id: UUID, parent_id: UUID) -> None:
        """Raise when the job is an ancestor of its parent-to-be."""
        line = (
            select(Job.id, Job.parent_id, literal(0).label("height"))
            .where(Job.id == parent_id)
            .cte("line", recursive=True)
        )
        above = aliased(Job)
        line = line.union(select(above.id, above.parent_id, literal(0)).join(line, above.id == line.c.parent_id))
        async with self._catalog.reading() as session:
            if await session.scalar(select(line.c.id).where(line.c.id == job_id)) is not None:
                raise InvalidInput(
                    f"parent_job_id: the job {parent_id} starts from this one itself.", hint="Give another parent."
                )

    async def _stop(self, job: Job, how: Stop, message: str) -> None:
        if JobState(job.state) in FINAL:
            raise JobEnded("Incomplete job not found.", hint="The job has ended already.")
        async with self._busy.changing([job.id]):
            run = await stop_run(self._runs, job.id, how, message)
        await self._projection.apply(run)
        if run.state in FINAL:
            # The projector may have been faster and still be busy with children and trials: who is answered finds them
            # ended.
            await self._projection.follow_up(job, run.state)

    @staticmethod
    async def _read(session: AsyncSession, owner: Owner, job_id: UUID) -> Job:
        job = await read_job(session, owner.org, job_id)
        if (owner.experiment_id, owner.dataset_id) != (job.experiment_id, job.dataset_id):
            raise NotFound("Job not found.")
        return job

    async def _start(
        self,
        owner: Owner,
        plan: Plan,
        parent_id: UUID | None,
        made: list[UUID],
        *,
        together: bool = False,
        first: Held | None = None,
        secret: bytes | None = None,
    ) -> None:
        """Make the flow run, the row and the log of a job; its id goes into `made` as soon as it is known.

        `first` is in its way before all else. `secret` are its variables, encrypted.
        """
        found = await self._settler.hold_of(owner.org, parent_id, plan.dataset_ids)
        if isinstance(found, Doomed):
            raise InvalidInput(found.reason, hint="Run the parent again or upload the data, then start the job.")
        held = first or found or (_TOGETHER if together or secret is not None else None)
        run = await self._runs.create(
            plan.flow,
            plan.subject,
            parameters={**plan.parameters, **({"parent_job_id": str(parent_id)} if parent_id else {})},
            tags=plan.tags_with(parent_id),
            name=f"{plan.flow}-{plan.subject}",
            job_variables=plan.job_variables,
            priority=plan.asked.priority,
            held=held,
        )
        made.append(run.id)
        if secret is not None:
            # before the row: without one nobody lets the job go
            await asyncio.to_thread(self._storage.write_bytes, layout.secrets(owner.org, run.id), secret)
        await self._record(owner, plan, parent_id, run)
        line = held.sentence if held is not None else "Waiting for a worker."
        await asyncio.to_thread(start_log, self._storage, owner.org, run.id, line)

    async def _record(self, owner: Owner, plan: Plan, parent_id: UUID | None, run: FlowRun) -> None:
        """Write the row; where the projector adopts the flow run at the same moment, complete its row."""
        for attempt in (1, 2):
            try:
                async with self._catalog.writing() as session:
                    await self._write_row(session, owner, plan, parent_id, run)
                return
            except NoResultFound as error:
                raise NotFound("A data set of the job was deleted meanwhile.") from error
            except IntegrityError as error:
                if attempt == 2:
                    raise NotFound("The experiment or the data set was deleted meanwhile.") from error

    async def _write_row(
        self, session: AsyncSession, owner: Owner, plan: Plan, parent_id: UUID | None, run: FlowRun
    ) -> None:
        for dataset_id in plan.dataset_ids:
            await session.get_one(Dataset, dataset_id)
        job = await session.get(Job, run.id)
        if job is None:
            pending = run.state == JobState.PENDING
            job = Job(
                id=run.id,
                org=owner.org,
                experiment_id=owner.experiment_id,
                dataset_id=owner.dataset_id,
                bundle_id=owner.bundle_id,
                action=plan.action,
                network=plan.network,
                state=run.state,
                state_name=run.state_name,
                state_at=run.state_at,
                due_at=run.due_at if pending and run.state_type == "SCHEDULED" else None,
                pending_at=run.state_at if pending else None,
                message="",
                fraction=0.0,
                history=[],
                created_at=run.created_at,
            )
            session.add(job)
        asked, limits = plan.asked, plan.asked.limits
        job.parent_id = parent_id
        job.name, job.description = asked.name, asked.description
        job.num_gpu, job.platform, job.priority = asked.num_gpu, asked.platform, asked.priority
        job.max_attempts, job.max_run_s = limits.max_attempts, limits.max_run_s
        job.max_pending_s, job.expires_at = limits.max_pending_s, limits.expires_at
        job.spec = dict(asked.spec) if isinstance(asked.spec, Mapping) else {}
        job.dataset_ids = [str(i) for i in plan.dataset_ids]
        if plan.sweep is not None and job.sweep is None:
            job.sweep = {}
        job.updated_at = utc_now()

    async def _forget(self, made: Sequence[UUID]) -> None:
        """Take back flow runs of a request that failed, children first."""
        for run_id in reversed(made):
            with contextlib.suppress(YardError):  # it goes all the same
                await stop_run(self._runs, run_id, CANCEL, "The request failed.")
            await self._runs.delete(run_id)
            async with self._catalog.writing() as session:
                job = await session.get(Job, run_id)
                org = job.org if job is not None else None
                if job is not None:
                    await session.delete(job)
            if org is not None:
                await asyncio.to_thread(self._storage.remove, layout.log(org, run_id))
                await asyncio.to_thread(self._storage.remove, layout.job(org, run_id))


def _refuse_to_resume(job: Job) -> None:
    """Raise when a job cannot be resumed, whatever with. A sweep can go on from every end."""
    if Action(job.action) not in TRAINING:
        raise ActionNotAllowed("Action not train.", hint="Only train and retrain can be resumed.")
    if job.state not in (JobState.PAUSED, *(FINAL if job.sweep is not None else (JobState.CANCELLED,))):
        wait = job.state in (JobState.PAUSING, JobState.CANCELLING)
        raise ActionNotAllowed(
            f"The job is {job.state}; only a cancelled or paused one can be resumed.",
            hint="Wait until its process has ended." if wait else "Run a new job.",
        )

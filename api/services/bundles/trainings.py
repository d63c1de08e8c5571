"""Jobs that train bundles: started, listed, stopped, and the models that they have made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....deployments.containers import container_variables
from ....schemas.actions import Action
from ....schemas.bundles import BUILDING_MESSAGE, BUNDLE, BundleManifest, Resources, TrainedModel, TrainingRecord
from ....schemas.errors import InvalidInput, NotFound
from ....schemas.states import AWAITING_DATA, JobState
from ...catalog import Catalog
from ...catalog.bundles import Bundle
from ...catalog.models import Job
from ..accounts.auth import Caller
from ..accounts.idempotency import new_id
from ..commands.fitting import refuse_unfitting
from ..jobs.holds import Held
from ..jobs.jobs import JobEnded, JobService
from ..jobs.planning import NewJob, Owner, Plan
from ..jobs.reasons import JobView, Reasons
from ..jobs.workers import OnlineWorkers
from ..paging import Page, read_page
from .intake import BundleIntake, Receipt, StoredBundle

#: In the way of a new job until its row names its bundle.
_BUNDLE_FIRST = Held(AWAITING_DATA, "The bundle is there; the job is about to be queued.")


class JobNotFound(NotFound):
    """In the words of the API document."""

    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job with id: {job_id}")


class JobNotRunning(InvalidInput):
    """In the words of the API document."""

    code = "job_not_running"

    def __init__(self, job_id: UUID) -> None:
        super().__init__(f"Job is not running, id: {job_id}")


class ModelNotFound(NotFound):
    code = "model_not_found"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"There is no model with id: {model_id[:100]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A job and the bundle that it trains."""

    view: JobView
    bundle: Bundle

    @property
    def job(self) -> Job:
        return self.view.row

    @property
    def is_building(self) -> bool:
        return self.job.state == JobState.RUNNING and self.job.message in ("", BUILDING_MESSAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingPlan(Plan):
    resources: Resources

    @property
    def job_variables(self) -> dict[str, Any]:
        asked = self.resources
        wanted = asked.model_dump() | container_variables(asked.cpus, asked.gpus, asked.memory_mb)
        if not asked.gpus:
            del wanted["gpu_type"]
        return {name: value for name, value in wanted.items() if value is not None}


class TrainingService:
    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        jobs: JobService,
        reasons: Reasons,
        workers: OnlineWorkers,
        intake: BundleIntake,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._jobs = jobs
        self._reasons = reasons
        self._workers = workers
        self._intake = intake

    @asynccontextmanager
    async def receiving(self, org: str, expected_bytes: int | None) -> AsyncIterator[Receipt]:
        """Give a place for the bytes of a bundle; see `BundleIntake.receiving`."""
        async with self._intake.receiving(org, expected_bytes) as receipt:
            yield receipt

    async def start(self, caller: Caller, workspace: str, receipt: Receipt, owner: str | None) -> Training:
        """Check and store a received bundle and start its training; after an error nothing is left.

        Raises:
            InvalidInput: the bundle, one of its parents or what it asks of a worker is not acceptable.
            QuotaExceeded: the org keeps more files than it may.
        """
        bundle_id = new_id("bundle")
        stored = await self._intake.store(caller.org, workspace, bundle_id, receipt)
        try:
            refuse_unfitting(stored.manifest.resources, self._workers.capacities(Action.TRAIN_BUNDLE))
            parent_id = await self._check_parents(caller.org, stored.manifest)
            await self._record(caller, workspace, bundle_id, stored, owner or caller.user)
            job_id = await self._jobs.start_held(
                Owner(org=caller.org, bundle_id=bundle_id),
                _plan(caller.org, bundle_id, stored.manifest, parent_id),
                _BUNDLE_FIRST,
            )
        except BaseException:
            await asyncio.shield(self._forget(caller.org, bundle_id))
            raise
        await self._jobs.settle(caller.org, job_id)
        return await self.read(caller.org, workspace, str(job_id))

    async def read_list(self, org: str, workspace: str, page: Page) -> tuple[list[Training], int]:
        """Return a page of the jobs of a workspace, newest first, and the total."""
        query = select(Job).join(Bundle, Bundle.id == Job.bundle_id)
        query = query.where(Job.org == org, Bundle.org == org, Bundle.workspace == workspace)
        async with self._catalog.reading() as session:
            rows, total = await read_page(session, query, Job, page)
            views = await self._reasons.views(session, rows)
            ids = {row.bundle_id for row in rows}
            bundles = {row.id: row for row in await session.scalars(select(Bundle).where(Bundle.id.in_(ids)))}
        return [Training(view=v, bundle=bundles[v.row.bundle_id]) for v in views if v.row.bundle_id in bundles], total

    async def read(self, org: str, workspace: str, job_id: str) -> Training:
        """Return a job of a workspace; JobNotFound when there is none."""
        async with self._catalog.reading() as session:
            job, bundle = await _find(session, org, workspace, job_id)
            return Training(view=await self._reasons.view(session, job), bundle=bundle)

    async def read_newest(self, org: str, workspace: str) -> Bundle:
        """Return the bundle that was sent to a workspace last.

        Raises:
            NotFound: none was sent.
        """
        query = select(Bundle).where(Bundle.org == org, Bundle.workspace == workspace)
        async with self._catalog.reading() as session:
            found = await session.scalar(query.order_by(Bundle.created_at.desc(), Bundle.id.desc()).limit(1))
        if found is None:
            raise NotFound("The workspace has no pipeline.", hint="POST a bundle to it first.")
        return found

    async def read_record(self, training: Training) -> TrainingRecord:
        """Return what a job says of itself so far: its models, its environment."""
        return await asyncio.to_thread(self._read_record, training.job.org, training.job.id)

    async def read_model(
        self, org: str, workspace: str, model_id: str
    ) -> tuple[Training, TrainingRecord, TrainedModel]:
        """Return a model, and the job that has made it.

        Raises:
            ModelNotFound: the workspace has no such model.
        """
        job_id, _, number = model_id.rpartition("-")
        try:
            training = await self.read(org, workspace, job_id)
        except JobNotFound as error:
            raise ModelNotFound(model_id) from error
        record = await self.read_record(training)
        for model in record.models:
            if str(model.number) == number:
                return training, record, model
        raise ModelNotFound(model_id)

    async def kill(self, org: str, workspace: str, job_id: str) -> Training:
        """Stop a job that waits, builds or runs.

        Raises:
            JobNotRunning: it has ended.
            JobNotFound: the workspace has no such job.
        """
        found = await self.read(org, workspace, job_id)
        try:
            await self._jobs.cancel(Owner(org=org), found.job.id)
        except JobEnded as error:
            raise JobNotRunning(found.job.id) from error
        return await self.read(org, workspace, job_id)

    async def _check_parents(self, org: str, manifest: BundleManifest) -> UUID | None:
        """Return the job of the first parent. All are there and complete."""
        jobs = []
        for model_id in manifest.parents:
            job_id, _, number = model_id.rpartition("-")
            async with self._catalog.reading() as session:
                job = await session.get(Job, UUID(job_id))
            if job is None or job.org != org or job.bundle_id is None:
                raise InvalidInput(f"parents: there is no model {model_id}.")
            if job.state != JobState.DONE:
                raise InvalidInput(
                    f"parents: the job of the model {model_id} is {job.state}.",
                    hint="Take a model of a job that is done.",
                )
            record = await asyncio.to_thread(self._read_record, org, job.id)
            if all(str(model.number) != number for model in record.models):
                raise InvalidInput(f"parents: there is no model {model_id}.")
            jobs.append(job.id)
        return jobs[0] if jobs else None

    async def _record(self, caller: Caller, workspace: str, bundle_id: UUID, stored: StoredBundle, owner: str) -> None:
        async with self._catalog.writing() as session:
            if await session.get(Bundle, bundle_id) is not None:
                return  # an earlier try of the same request has written it
            session.add(
                Bundle(
                    id=bundle_id,
                    org=caller.org,
                    workspace=workspace,
                    user_id=caller.user_id,
                    owner=owner,
                    manifest=stored.manifest.model_dump(mode="json"),
                    code=stored.code,
                    data=stored.data,
                    size_bytes=stored.size_bytes,
                )
            )

    async def _forget(self, org: str, bundle_id: UUID) -> None:
        async with self._catalog.writing() as session:
            if (row := await session.get(Bundle, bundle_id)) is not None:
                await session.delete(row)
        await self._intake.forget(org, bundle_id)

    def _read_record(self, org: str, job_id: UUID) -> TrainingRecord:
        try:
            content = self._storage.read_bytes(f"{layout.job(org, job_id)}/{layout.TRAINING}")
            return TrainingRecord.model_validate_json(content)
        except (NotFound, ValidationError):  # not written yet
            return TrainingRecord()


def sort_models(models: Sequence[TrainedModel], by: str | None, manifest: BundleManifest) -> list[TrainedModel]:
    """Return models with the best one by a metric first, those without it last; without a metric the newest first.

    Raises:
        InvalidInput: no model has such a metric.
    """
    if by is None:
        return sorted(models, key=lambda model: model.number, reverse=True)
    known = sorted({name for model in models for name in model.metrics} | set(manifest.metrics))
    if by not in known:
        raise InvalidInput(
            f"sort_by: no model has the metric {by[:100]!r}.", hint=f"There are {', '.join(known) or 'none'}."
        )
    is_less_better = manifest.metrics.get(by) == "minimize" or (
        by not in manifest.metrics and any(word in by.lower() for word in ("loss", "error"))
    )
    sign = 1.0 if is_less_better else -1.0
    having = [model for model in models if by in model.metrics]
    having.sort(key=lambda model: (sign * model.metrics[by], -model.number))
    return [*having, *(model for model in models if by not in model.metrics)]


def model_id(job_id: UUID, model: TrainedModel) -> str:
    return f"{job_id}-{model.number}"


def _plan(org: str, bundle_id: UUID, manifest: BundleManifest, parent_id: UUID | None) -> _TrainingPlan:
    return _TrainingPlan(
        asked=NewJob(
            action=Action.TRAIN_BUNDLE,
            spec={"parameters": manifest.parameters},
            name=manifest.name,
            description=manifest.description,
            num_gpu=manifest.resources.gpus,
        ),
        action=Action.TRAIN_BUNDLE,
        subject=BUNDLE,
        network=None,
        parameters={"org": org, "bundle_id": str(bundle_id), "name": manifest.name},
        tags={"org": org, "action": Action.TRAIN_BUNDLE, "bundle": bundle_id},
        dataset_ids=[],
        parent_id=parent_id,
        after=None,
        resources=manifest.resources,
    )


async def _find(session: AsyncSession, org: str, workspace: str, job_id: str) -> tuple[Job, Bundle]:
    try:
        wanted = UUID(job_id)
    except ValueError:
        raise JobNotFound(job_id) from None
    query = (
        select(Job, Bundle)
        .join(Bundle, Bundle.id == Job.bundle_id)
        .where(Job.id == wanted, Job.org == org, Bundle.org == org, Bundle.workspace == workspace)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise JobNotFound(job_id)
    return row[0], row[1]

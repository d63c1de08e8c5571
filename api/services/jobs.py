"""Jobs: check what is asked, start it as a flow run, cancel, resume and delete it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession

from ...blocks import ArtifactStorage, layout
from ...datasets.image_folder import require_two_classes
from ...datasets.manifest import RawManifest
from ...schemas.actions import CONVERSIONS, MODEL_PARENTS, NEEDS_PARENT, TRAINING, Action
from ...schemas.errors import ActionNotAllowed, InUse, InvalidInput, NotFound
from ...schemas.jobs import TAG, Datasets
from ...schemas.states import FINAL, JobState
from ..catalog import Catalog
from ..catalog.models import Dataset, Experiment, Job, utc_now
from .access import read_dataset, read_experiment, read_job
from .datasets import DatasetStatus, purge_of
from .joblog import reopen_log, start_log
from .jobs_query import refuse_if_needed
from .paging import Page, read_page
from .projection import Projection
from .records import read_datasets
from .runs import FlowRun, FlowRuns
from .specs import checked_spec, spec_model, wanted_gpus
from .uploads import MANIFEST

#: Which data sets an action cannot do without, by the field of the experiment that names them.
_NEEDED = {
    Action.TRAIN: "train",
    Action.RETRAIN: "train",
    Action.EVALUATE: "eval",
    Action.INFERENCE: "inference",
}
_FIELDS = {"train": "train_datasets", "eval": "eval_dataset", "inference": "inference_dataset"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What a job belongs to: an experiment or a data set; neither id stands for all of the org."""

    org: str
    experiment_id: UUID | None = None
    dataset_id: UUID | None = None
    of_datasets: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job as a client asks for it."""

    action: str
    parent_id: UUID | None = None
    spec: object = None
    name: str = ""
    description: str = ""
    num_gpu: int | None = None
    platform: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A checked job, ready to be submitted."""

    action: Action
    subject: str
    network: str | None
    parameters: Mapping[str, Any]
    tags: list[str]
    dataset_ids: list[UUID]
    parent: Job | None


class JobService:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, runs: FlowRuns, projection: Projection) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._projection = projection

    async def run(self, owner: Owner, asked: NewJob) -> UUID:
        """Start a job, now or when its parent is done, and return its id.

        Raises:
            NotFound: no such experiment, data set or parent.
            InvalidInput: the action, its spec, its data or its parent do not fit; nothing was started.
        """
        plan = await self._plan(owner, asked)
        parent = plan.parent
        waits = parent is not None and parent.state != JobState.DONE
        run = await self._runs.create(
            plan.action,
            plan.subject,
            parameters=plan.parameters,
            tags=plan.tags,
            name=f"{plan.action}-{plan.subject}",
            job_variables={"gpus": asked.num_gpu} if asked.num_gpu else {"gpus_up_to": wanted_gpus(plan.parameters)},
            awaiting=parent.id if parent is not None and waits else None,
        )
        try:
            await self._record(owner, asked, plan, run)
            line = f"Waiting for the parent job {asked.parent_id}." if waits else "Waiting for a worker."
            await asyncio.to_thread(start_log, self._storage, owner.org, run.id, line)
        except BaseException:
            await asyncio.shield(self._forget(run.id))
            raise
        if waits and parent is not None:
            # why: the parent may have ended between the check and the new row
            await self._projection.settle_children(parent.id)
        return run.id

    async def read(self, owner: Owner, job_id: UUID) -> Job:
        async with self._catalog.reading() as session:
            job = await read_job(session, owner.org, job_id)
        if (owner.experiment_id, owner.dataset_id) != (job.experiment_id, job.dataset_id):
            raise NotFound("Job not found.")
        return job

    async def read_list(self, owner: Owner, page: Page) -> tuple[list[Job], int]:
        """Return a page of the jobs of an experiment, of a data set or of all in the org, and the total."""
        query = select(Job).where(Job.org == owner.org)
        async with self._catalog.reading() as session:
            if owner.experiment_id is not None:
                await read_experiment(session, owner.org, owner.experiment_id)
                query = query.where(Job.experiment_id == owner.experiment_id)
            elif owner.dataset_id is not None:
                await read_dataset(session, owner.org, owner.dataset_id)
                query = query.where(Job.dataset_id == owner.dataset_id)
            else:
                column = Job.dataset_id if owner.of_datasets else Job.experiment_id
                query = query.where(column.is_not(None))
            return await read_page(session, query, Job, page)

    async def cancel(self, owner: Owner, job_id: UUID) -> None:
        """Ask for the end of a job; a waiting one ends at once.

        Raises:
            NotFound: no such job, or it has ended already.
        """
        job = await self.read(owner, job_id)
        if JobState(job.state) in FINAL:
            raise NotFound("Incomplete job not found.", hint="The job has ended already.")
        await self._runs.move(job_id, "CANCELLING", message="Cancelled by the user.")
        await self._projection.apply(await self._runs.read(job_id))

    async def resume(self, owner: Owner, job_id: UUID, *, parent_id: UUID | None, spec: object) -> None:
        """Go on with a cancelled or paused training job under the same id, from its newest checkpoint.

        Raises:
            ActionNotAllowed: no training job, or one that is not cancelled or paused.
        """
        job = await self.read(owner, job_id)
        action = Action(job.action)
        if action not in TRAINING:
            raise ActionNotAllowed("Action not train.", hint="Only train and retrain can be resumed.")
        if job.state not in (JobState.CANCELLED, JobState.PAUSED):
            raise ActionNotAllowed(
                f"The job is {job.state}; only a cancelled or paused one can be resumed.", hint="Run a new job."
            )
        changes: dict[str, Any] = {}
        if spec:
            changes["spec"] = checked_spec(action, job.network, spec)
        if parent_id is not None and parent_id != job.parent_id:
            parent = await self._read_parent(owner, action, parent_id, job.network)
            if parent.state != JobState.DONE:
                raise InvalidInput(f"parent_job_id: the parent job {parent_id} is not done.")
            changes["parent_job_id"] = str(parent_id)
        if changes:
            path = layout.resume(owner.org, job_id)
            await asyncio.to_thread(self._storage.write_json, path, changes)
            async with self._catalog.writing() as session:
                row = await read_job(session, owner.org, job_id, lock=True)
                row.spec = dict(spec) if isinstance(spec, Mapping) and spec else row.spec
                row.parent_id = parent_id or row.parent_id
        await asyncio.to_thread(reopen_log, self._storage, owner.org, job_id, "Resumed by the user.")
        await self._runs.move(job_id, "SCHEDULED", name="Resuming", message="Resumed by the user.")
        await self._projection.apply(await self._runs.read(job_id))

    async def delete(self, owner: Owner, job_id: UUID) -> None:
        """Delete a job that has ended, with its files and its flow run.

        Raises:
            InUse: it has not ended, or a job that has not ended starts from it.
        """
        await self.read(owner, job_id)
        async with self._catalog.writing() as session:
            job = await read_job(session, owner.org, job_id, lock=True)
            if JobState(job.state) not in FINAL:
                raise InUse("The job has not ended.", hint="Cancel it first.")
            await refuse_if_needed(session, [job_id])
            session.add(purge_of(job))
            await session.delete(job)
        await self._projection.purge()

    async def _plan(self, owner: Owner, asked: NewJob) -> _Plan:
        async with self._catalog.reading() as session:
            if owner.experiment_id is not None:
                experiment = await read_experiment(session, owner.org, owner.experiment_id)
                datasets = (await read_datasets(session, [experiment.id]))[experiment.id]
                dataset = None
            else:
                assert owner.dataset_id is not None
                experiment, datasets = None, Datasets()
                dataset = await read_dataset(session, owner.org, owner.dataset_id)
        network = experiment.network if experiment else None
        spec_model(asked.action, network)
        action = Action(asked.action)
        spec = checked_spec(action, network, asked.spec)
        parent = None
        if asked.parent_id is not None:
            parent = await self._read_parent(owner, action, asked.parent_id, network)
        elif action in NEEDS_PARENT:
            raise ActionNotAllowed(
                f"parent_job_id: {action} starts from the result of another job.",
                hint=f"Give the id of a job of one of the actions {_words(MODEL_PARENTS[action])}.",
            )
        parameters: dict[str, Any] = {"org": owner.org, "spec": spec, "name": asked.name or None}
        parameters["parent_job_id"] = str(parent.id) if parent else None
        if experiment is not None:
            if experiment.sweep.get("automl_enabled") and action is Action.TRAIN:
                raise InvalidInput(
                    "automl_settings.automl_enabled: sweeps are not available yet.", hint="PATCH it to false."
                )
            if action in (Action.EVALUATE, Action.INFERENCE) and parent is None:
                raise ActionNotAllowed(
                    f"parent_job_id: {action} needs the model of another job.",
                    hint=f"Give the id of a job of one of the actions {_words(MODEL_PARENTS[action])}.",
                )
            used = await self._check_datasets(owner.org, action, datasets)
            parameters |= _experiment_parameters(experiment, datasets, parent)
        else:
            assert dataset is not None
            parameters["dataset_id"] = str(dataset.id)
            await self._read_manifest(owner.org, dataset.id)
            used = [dataset.id]
        tags = {"org": owner.org, "action": action, "network": network, "parent": parent.id if parent else None}
        tags |= {"experiment": owner.experiment_id, "dataset": owner.dataset_id}
        subject = network if network is not None else dataset.type if dataset is not None else ""
        return _Plan(
            action=action,
            subject=subject,
            network=network,
            parameters={key: value for key, value in parameters.items() if value is not None},
            tags=[f"{TAG}{name}:{value}" for name, value in tags.items() if value is not None],
            dataset_ids=used,
            parent=parent,
        )

    async def _read_parent(self, owner: Owner, action: Action, parent_id: UUID, network: str | None) -> Job:
        """Return a parent that the action can start from, now or when it is done."""
        async with self._catalog.reading() as session:
            try:
                parent = await read_job(session, owner.org, parent_id)
            except NotFound as error:
                raise NotFound("Parent job not found.") from error
        if parent.state in (JobState.FAILED, JobState.CANCELLED):
            raise InvalidInput(
                f"parent_job_id: the parent job {parent_id} ended as {parent.state}: {parent.message}",
                hint="Run the parent again and take the new job's id.",
            )
        parent_action = Action(parent.action)
        allowed = CONVERSIONS if action in CONVERSIONS else MODEL_PARENTS.get(action, CONVERSIONS | TRAINING)
        if parent_action not in allowed:
            raise ActionNotAllowed(
                f"parent_job_id: {action} cannot start from the result of {parent_action}.",
                hint=f"Its parent is a job of one of the actions {_words(allowed)}.",
            )
        if parent_action not in CONVERSIONS and parent.network != network:
            raise ActionNotAllowed(f"parent_job_id: the parent job is of {parent.network}, not of {network}.")
        return parent

    async def _check_datasets(self, org: str, action: Action, datasets: Datasets) -> list[UUID]:
        """Return the data sets that the job reads; all of them are there and good for it."""
        role = _NEEDED.get(action)
        if role is not None and not getattr(datasets, role):
            raise InvalidInput(
                f"{_FIELDS[role]}: the experiment has none and {action} needs one.",
                hint=f"PATCH the experiment with {_FIELDS[role]}.",
            )
        used = [*datasets.train] if action in (*TRAINING, Action.PRUNE) else []
        used += [datasets.eval] if datasets.eval and action in (*TRAINING, Action.EVALUATE, Action.EXPORT) else []
        used += [datasets.inference] if datasets.inference and action is Action.INFERENCE else []
        used += [datasets.calibration] if datasets.calibration and action is Action.GEN_TRT_ENGINE else []
        for dataset_id in used:
            manifest = await self._read_manifest(org, dataset_id)
            if action in TRAINING and dataset_id in datasets.train:
                require_two_classes(manifest.classes)
        return used

    async def _read_manifest(self, org: str, dataset_id: UUID) -> RawManifest:
        """Return what a data set holds; InvalidInput while it holds nothing."""
        async with self._catalog.reading() as session:
            status = (await read_dataset(session, org, dataset_id)).status
        if status != DatasetStatus.READY:
            why = "is being uploaded" if status == DatasetStatus.RECEIVING else "has no files"
            raise InvalidInput(
                f"The data set {dataset_id} {why}.", hint=f"POST an archive to .../datasets/{dataset_id}:upload."
            )
        path = f"{layout.dataset(org, dataset_id)}/{MANIFEST}"
        return RawManifest.model_validate(await asyncio.to_thread(self._storage.read_json, path))

    async def _record(self, owner: Owner, asked: NewJob, plan: _Plan, run: FlowRun) -> None:
        """Write the row; where the projector adopts the flow run at the same moment, complete its row."""
        for attempt in (1, 2):
            try:
                async with self._catalog.writing() as session:
                    await self._write_row(session, owner, asked, plan, run)
                return
            except NoResultFound as error:
                raise NotFound("A data set of the job was deleted meanwhile.") from error
            except IntegrityError as error:
                if attempt == 2:
                    raise NotFound("The experiment or the data set was deleted meanwhile.") from error

    async def _write_row(self, session: AsyncSession, owner: Owner, asked: NewJob, plan: _Plan, run: FlowRun) -> None:
        for dataset_id in plan.dataset_ids:
            await session.get_one(Dataset, dataset_id)
        job = await session.get(Job, run.id)
        if job is None:
            job = Job(
                id=run.id,
                org=owner.org,
                experiment_id=owner.experiment_id,
                dataset_id=owner.dataset_id,
                action=plan.action,
                network=plan.network,
                state=run.state,
                state_at=run.state_at,
                message="",
                fraction=0.0,
                history=[],
                created_at=run.created_at,
            )
            session.add(job)
        job.parent_id = plan.parent.id if plan.parent else None
        job.name, job.description = asked.name, asked.description
        job.num_gpu, job.platform = asked.num_gpu, asked.platform
        job.spec = dict(asked.spec) if isinstance(asked.spec, Mapping) else {}
        job.dataset_ids = [str(i) for i in plan.dataset_ids]
        job.updated_at = utc_now()

    async def _forget(self, run_id: UUID) -> None:
        """Take back a flow run that could not be recorded."""
        await self._runs.delete(run_id)
        async with self._catalog.writing() as session:
            if (job := await session.get(Job, run_id)) is not None:
                await session.delete(job)


def _experiment_parameters(experiment: Experiment, datasets: Datasets, parent: Job | None) -> dict[str, Any]:
    epoch = experiment.checkpoint_epochs.get(f"from_epoch_number_{parent.id}") if parent else None
    if experiment.checkpoint == "from_epoch_number" and parent is not None and epoch is None:
        raise InvalidInput(
            f"checkpoint_epoch_number: from_epoch_number_{parent.id} is not set.",
            hint="PATCH the experiment with it or choose best_model or latest_model.",
        )
    return {
        "experiment_id": str(experiment.id),
        "network": experiment.network,
        "datasets": datasets.model_dump(mode="json"),
        "base_experiment_id": experiment.base_experiment_ids[0] if experiment.base_experiment_ids else None,
        "checkpoint": experiment.checkpoint,
        "checkpoint_epoch": epoch,
    }


def _words(actions: frozenset[Action]) -> str:
    return ", ".join(sorted(actions))

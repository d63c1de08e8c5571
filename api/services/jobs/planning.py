"""Check what a client asks for before anything is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ....blocks import ArtifactStorage
from ....datasets.manifest import RawManifest
from ....schemas.actions import CONVERSIONS, DATASET_ACTIONS, MODEL_PARENTS, NEEDS_PARENT, TRAINING, Action
from ....schemas.attempts import Priority
from ....schemas.errors import ActionNotAllowed, InvalidInput, NotFound
from ....schemas.jobs import TAG, Datasets
from ....schemas.states import JobState
from ....schemas.sweeps import SWEEP_FLOW, SWEEP_VARIABLES, SweepSettings
from ...catalog import Catalog
from ...catalog.models import Dataset, Experiment, Job
from ..access import read_dataset, read_experiment, read_job
from ..data.data_status import DatasetStatus
from ..data.manifests import read_manifest, require_trainable
from ..experiments.records import read_datasets
from ..experiments.specs import checked_spec, dataset_kind, spec_model, wanted_gpus
from ..experiments.sweeps import is_enabled
from .sweeps import SweepService

#: Which data sets an action cannot do without, by the field of the experiment that names them.
_NEEDED = {
    Action.TRAIN: "train",
    Action.RETRAIN: "train",
    Action.EVALUATE: "eval",
    Action.INFERENCE: "inference",
    Action.CALIBRATION_TENSORFILE: "calibration",
}
_FIELDS = {
    "train": "train_datasets",
    "eval": "eval_dataset",
    "inference": "inference_dataset",
    "calibration": "calibration_dataset",
}
_CALIBRATED = (Action.CALIBRATION_TENSORFILE, Action.GEN_TRT_ENGINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """What a job belongs to: an experiment or a data set; neither id stands for all of the org."""

    org: str
    experiment_id: UUID | None = None
    dataset_id: UUID | None = None
    of_datasets: bool = False
    bundle_id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a job is given up; what is None has no limit."""

    max_attempts: int | None = None
    max_run_s: float | None = None
    max_pending_s: float | None = None
    expires_at: datetime | None = None


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
    priority: Priority = Priority.NORMAL
    limits: Limits = Limits()
    group: int = 0
    """Of the jobs of one request, those of one group start from each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked job, ready to be submitted."""

    asked: NewJob
    action: Action
    subject: str
    network: str | None
    parameters: Mapping[str, Any]
    tags: Mapping[str, object]
    dataset_ids: list[UUID]
    parent_id: UUID | None
    after: int | None
    """Place in the same request of the job that it starts from, which has no id yet."""
    sweep: SweepSettings | None = None
    """Set when the job is a sweep."""

    @property
    def flow(self) -> str:
        return SWEEP_FLOW if self.sweep is not None else self.action

    @property
    def job_variables(self) -> dict[str, Any]:
        found = {"gpus": self.asked.num_gpu} if self.asked.num_gpu else {"gpus_up_to": wanted_gpus(self.parameters)}
        if self.sweep is not None:
            # `gpus_up_to`, which `gpus` overrules, says what its trials want.
            found = {**SWEEP_VARIABLES, "gpus_up_to": self.asked.num_gpu or wanted_gpus(self.parameters)}
        if self.asked.limits.max_attempts is not None:
            found["max_attempts"] = self.asked.limits.max_attempts
        return found

    def tags_with(self, parent_id: UUID | None) -> list[str]:
        tags = {**self.tags, "parent": parent_id}
        return [f"{TAG}{name}:{value}" for name, value in tags.items() if value is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parent:
    """What a job starts from: one that exists, or one that is planned before it."""

    id: UUID | None
    action: Action
    network: str | None
    after: int | None = None


class Planner:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, sweeps: SweepService) -> None:
        self._catalog = catalog
        self._storage = storage
        self._sweeps = sweeps

    async def plan(self, owner: Owner, asked: NewJob, earlier: Sequence[Plan] = ()) -> Plan:
        """Return a job that can be submitted. It may start from one of the `earlier` ones of the same request.

        Raises:
            NotFound: no such experiment, data set or parent.
            InvalidInput: the action, its spec, its data, its parent or the settings of the search do not fit.
        """
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
        subject = network if dataset is None else dataset_kind(dataset)
        assert subject is not None
        spec_model(asked.action, subject)
        action = Action(asked.action)
        spec = checked_spec(action, subject, asked.spec)
        parent = _latest(earlier, asked.group, action, network) or await self._given(
            owner.org, action, asked.parent_id, network
        )
        if parent is None and (action in NEEDS_PARENT or action in (Action.EVALUATE, Action.INFERENCE)):
            raise ActionNotAllowed(
                f"parent_job_id: {action} starts from the result of another job.",
                hint=f"Give the id of a job of one of the actions {_words(MODEL_PARENTS[action])}.",
            )
        parameters: dict[str, Any] = {"org": owner.org, "spec": spec, "name": asked.name or None}
        sweep = None
        if experiment is not None:
            used = await self._check_datasets(owner.org, action, datasets)
            parameters |= _experiment_parameters(experiment, datasets, parent)
            if action is Action.TRAIN and is_enabled(experiment.sweep):
                if datasets.eval is None:
                    raise InvalidInput(
                        "eval_dataset: the experiment has none, and a search compares its trials on evaluation data.",
                        hint="PATCH the experiment with eval_dataset.",
                    )
                sweep = await self._sweeps.settings_to_start(experiment, spec)
                # None is left out: its trials start from no checkpoint of a parent.
                settings = sweep.model_dump(mode="json", exclude_none=True)
                parameters |= {"settings": settings, "checkpoint": None, "checkpoint_epoch": None}
        else:
            assert dataset is not None
            parameters["dataset_id"] = str(dataset.id)
            await self._manifest_of(owner.org, dataset)
            used = [dataset.id]
        return Plan(
            asked=asked,
            action=action,
            subject=network if network is not None else dataset.type if dataset is not None else "",
            network=network,
            parameters={key: value for key, value in parameters.items() if value is not None},
            tags={
                "org": owner.org,
                "action": action,
                "network": network,
                "experiment": owner.experiment_id,
                "dataset": owner.dataset_id,
            },
            dataset_ids=used,
            parent_id=parent.id if parent else None,
            after=parent.after if parent else None,
            sweep=sweep,
        )

    async def read_parent(self, org: str, action: Action, parent_id: UUID, network: str | None) -> Job:
        """Return a parent that the action can start from, now or when it is done."""
        async with self._catalog.reading() as session:
            try:
                parent = await read_job(session, org, parent_id)
            except NotFound as error:
                raise NotFound("Parent job not found.") from error
        if parent.state in (JobState.FAILED, JobState.CANCELLED):
            raise InvalidInput(
                f"parent_job_id: the parent job {parent_id} ended as {parent.state}: {parent.message}",
                hint="Run the parent again and take the new job's id.",
            )
        parent_action = Action(parent.action)
        if parent_action not in _allowed_parents(action):
            raise ActionNotAllowed(
                f"parent_job_id: {action} cannot start from the result of {parent_action}.",
                hint=f"Its parent is a job of one of the actions {_words(_allowed_parents(action))}.",
            )
        if not _networks_fit(parent_action, parent.network, network):
            raise ActionNotAllowed(f"parent_job_id: the parent job is of {parent.network}, not of {network}.")
        return parent

    async def _given(self, org: str, action: Action, parent_id: UUID | None, network: str | None) -> _Parent | None:
        if parent_id is None:
            return None
        job = await self.read_parent(org, action, parent_id, network)
        return _Parent(id=job.id, action=Action(job.action), network=job.network)

    async def _check_datasets(self, org: str, action: Action, datasets: Datasets) -> list[UUID]:
        """Return the data sets that the job reads; all of them are there, or coming, and good for it."""
        role = _NEEDED.get(action)
        if role is not None and not getattr(datasets, role):
            raise InvalidInput(
                f"{_FIELDS[role]}: the experiment has none and {action} needs one.",
                hint=f"PATCH the experiment with {_FIELDS[role]}.",
            )
        used = [*datasets.train] if action in (*TRAINING, Action.PRUNE) else []
        used += [datasets.eval] if datasets.eval and action in (*TRAINING, Action.EVALUATE, Action.EXPORT) else []
        used += [datasets.inference] if datasets.inference and action is Action.INFERENCE else []
        used += [datasets.calibration] if datasets.calibration and action in _CALIBRATED else []
        for dataset_id in used:
            async with self._catalog.reading() as session:
                row = await read_dataset(session, org, dataset_id)
            manifest = await self._manifest_of(org, row)
            if action in TRAINING and dataset_id in datasets.train and manifest is not None:
                require_trainable(manifest)
        return used

    async def _manifest_of(self, org: str, row: Dataset) -> RawManifest | None:
        """Return what the files are; None while they are being uploaded, which the job will wait for."""
        if row.status == DatasetStatus.RECEIVING:
            return None
        if row.status == DatasetStatus.EMPTY:
            raise InvalidInput(
                f"The data set {row.id} has no files.", hint=f"POST an archive to .../datasets/{row.id}:upload."
            )
        return await asyncio.to_thread(read_manifest, self._storage, org, row.id)


def _allowed_parents(action: Action) -> frozenset[Action]:
    return DATASET_ACTIONS if action in DATASET_ACTIONS else MODEL_PARENTS.get(action, CONVERSIONS | TRAINING)


def _networks_fit(parent_action: Action, parent_network: str | None, network: str | None) -> bool:
    return parent_action in CONVERSIONS or parent_network == network


def _latest(earlier: Sequence[Plan], group: int, action: Action, network: str | None) -> _Parent | None:
    """Return the latest planned job that the action can start from."""
    for place in reversed(range(len(earlier))):
        plan = earlier[place]
        if plan.asked.group != group:
            continue
        if plan.action in _allowed_parents(action) and _networks_fit(plan.action, plan.network, network):
            return _Parent(id=None, action=plan.action, network=plan.network, after=place)
    return None


def _experiment_parameters(experiment: Experiment, datasets: Datasets, parent: _Parent | None) -> dict[str, Any]:
    epoch = None
    if parent is not None and parent.id is not None:
        epoch = experiment.checkpoint_epochs.get(f"from_epoch_number_{parent.id}")
        if experiment.checkpoint == "from_epoch_number" and parent.action in TRAINING and epoch is None:
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

"""Publishing: the model of a job becomes a version in MLflow's model registry."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from ....blocks import ArtifactStorage, layout
from ....schemas.actions import Action
from ....schemas.errors import Conflict, InvalidInput, NotFound, YardError
from ....schemas.jobs import ModelChoice
from ....schemas.model_choice import choose_model
from ....schemas.results import Artifact, JobResult
from ....schemas.states import JobState
from ...catalog import Catalog
from ...catalog.models import Experiment, Job
from .registry import LoggedModel, ModelRegistry, Version

_PUBLISHABLE = frozenset({Action.TRAIN, Action.PRUNE, Action.RETRAIN, Action.EXPORT, Action.GEN_TRT_ENGINE})
#: Names in the registry are `ORG.TEAM.NAME`; a slash or a colon it does not allow.
_NAME = re.compile(r"\w[\w .()+-]{0,199}")
_TEAM = re.compile(r"[A-Za-z0-9_-]{0,100}")
_FOLDER = "published"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A model as the registry has it."""

    name: str
    version: str


class PublishingService:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, registry: ModelRegistry) -> None:
        self._catalog = catalog
        self._storage = storage
        self._registry = registry
        #: One publication of a job at a time, or it would have two versions.
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def publish(self, job: Job, *, name: str | None, team: str = "", description: str = "") -> Published:
        """Register the checkpoint that the experiment of the job chooses, and return its name and version.

        Without a name that of the experiment is taken.

        Raises:
            NotFound: the job is not done, or of an action that makes no model.
            InvalidInput: a name or a team that the registry does not take.
            Conflict: the job is published under that name already.
            NotAvailable, Unavailable: there is no MLflow server, or it does not answer.
        """
        if job.action not in _PUBLISHABLE or job.state != JobState.DONE or job.result is None:
            raise NotFound(
                "The job has no model that could be published.",
                hint=f"Publish a job that is Done, of one of the actions {', '.join(sorted(_PUBLISHABLE))}.",
            )
        result = JobResult.model_validate(job.result)
        if result.mlflow_run_id is None:
            raise NotFound("The job has no MLflow run.", hint="Run it again in a yard with an MLflow server.")
        async with self._catalog.reading() as session:
            experiment = await session.get_one(Experiment, job.experiment_id)
        full_name = _full_name(job.org, team, name or experiment.name)
        artifact = choose_model(result, _choice(experiment, job.id))
        async with self._locks.setdefault(job.id, asyncio.Lock()):
            for version in await self._registry.versions(run_id=result.mlflow_run_id, prefix=f"{job.org}."):
                if version.name == full_name:
                    raise Conflict(
                        f"The job is published as version {version.number} of {full_name}.",
                        hint="Remove the published model first.",
                    )
            return await self._register(job, result, result.mlflow_run_id, artifact, full_name, description)

    async def remove(self, job: Job, *, team: str = "") -> list[Published]:
        """Take what was published of a job out of the registry again.

        Raises:
            NotFound: nothing is published of it.
        """
        result = JobResult.model_validate(job.result) if job.result is not None else None
        found: list[Version] = []
        async with self._locks.setdefault(job.id, asyncio.Lock()):
            if result is not None and result.mlflow_run_id is not None:
                prefix = f"{job.org}.{team}." if team else f"{job.org}."
                found = await self._registry.versions(run_id=result.mlflow_run_id, prefix=prefix)
            if not found:
                raise NotFound("The job is not published.", hint="See the team, or publish it with :publish_model.")
            for version in found:
                await self._withdraw(version)
        return [Published(name=version.name, version=version.number) for version in found]

    async def _register(
        self, job: Job, result: JobResult, run_id: str, artifact: Artifact, name: str, description: str
    ) -> Published:
        logged = await self._registry.logged_model(run_id)
        made: str | None = None
        model_id = None
        if logged is not None and result.model is not None and artifact.path == result.model.path:
            source, model_id = logged.uri, logged.id
        else:
            source = made = f"{await self._registry.run_folder(run_id)}/{_FOLDER}/{uuid4().hex}"
        tags = {
            "trainyard.org": job.org,
            "trainyard.job_id": str(job.id),
            "trainyard.action": job.action,
            "trainyard.network": job.network or "",
            "trainyard.file": artifact.path,
            "trainyard.sha256": artifact.sha256 or "",
            **({"trainyard.epoch": str(artifact.epoch)} if artifact.epoch is not None else {}),
        }
        try:
            if made is not None:
                await self._copy(job, result, artifact, logged, made)
            await self._registry.create_model(name, {"trainyard.org": job.org})
            version = await self._registry.create_version(
                name, source=source, run_id=run_id, model_id=model_id, description=description, tags=tags
            )
        except YardError:
            if made is not None:
                await self._registry.delete_folder(made)
            await self._registry.delete_model_if_empty(name)
            raise
        return Published(name=name, version=version.number)

    async def _copy(
        self, job: Job, result: JobResult, artifact: Artifact, logged: LoggedModel | None, folder: str
    ) -> None:
        """Put a checkpoint that MLflow does not have beside the files of the run.

        It gets the frame of the model that MLflow has, so that `mlflow.pyfunc` loads it as well.
        """
        top = layout.job(job.org, job.id)
        if logged is None or result.model is None:
            beside = str(PurePosixPath(artifact.path).parent)
            for file in await asyncio.to_thread(self._storage.list_files, f"{top}/{beside}"):
                await self._registry.write_file(folder, file.path, self._read(f"{top}/{beside}/{file.path}"))
            return
        old, new = PurePosixPath(result.model.path).name, PurePosixPath(artifact.path).name
        for name in await self._registry.files(logged.uri):
            if PurePosixPath(name).name == old:
                target = str(PurePosixPath(name).with_name(new))
                await self._registry.write_file(folder, target, self._read(f"{top}/{artifact.path}"))
                continue
            content = await self._registry.read_file(logged.uri, name)
            if name == "MLmodel":
                content = content.replace(old.encode(), new.encode())
            await self._registry.write_file(folder, name, content)

    async def _read(self, path: str) -> AsyncIterator[bytes]:
        file = await asyncio.to_thread(self._storage.open, path)
        try:
            while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
                yield chunk
        finally:
            file.close()

    async def _withdraw(self, version: Version) -> None:
        await self._registry.delete_version(version)
        await self._registry.delete_model_if_empty(version.name)
        if f"/{_FOLDER}/" in version.source:
            await self._registry.delete_folder(version.source)


def _full_name(org: str, team: str, name: str) -> str:
    if not _TEAM.fullmatch(team):
        raise InvalidInput("team_name: letters, digits, dashes and underscores are allowed.")
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            "display_name: up to 200 letters, digits, spaces and any of .()+-_ are allowed.",
            hint="Without one the name of the experiment is taken.",
        )
    return ".".join(part for part in (org, team, name) if part)


def _choice(experiment: Experiment, job_id: UUID) -> ModelChoice:
    method = experiment.checkpoint
    epoch = experiment.checkpoint_epochs.get(f"from_epoch_number_{job_id}")
    return ModelChoice(method=method, epoch=epoch)  # type: ignore[arg-type] # only such words are written

"""The job that the running task belongs to, and its folder in the artifact storage."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_logger

from ..blocks import ArtifactStorage, layout, load_storage
from ..blocks.storage import is_internal
from ..schemas.actions import Action
from ..schemas.errors import YardError
from ..schemas.results import Artifact, JobResult
from .joblock import job_lock
from .uploads import Uploads

logger = get_logger("trainyard.context")

#: Org of tasks that run in somebody's own flow, where no facade knows about orgs.
LOCAL_ORG = "local"

#: A job waits so long for a storage that is away when it needs something of it; see also `uploads.PATIENCE_S`.
STORAGE_PATIENCE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTrial:
    """Which trial of which sweep a flow run is."""

    job_id: str
    """Job id of the sweep."""
    number: int
    mlflow_run_id: str
    """MLflow run of the sweep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """Who a task works for. `job_id` is a flow run id, or a task run id in somebody's own flow."""

    org: str
    job_id: str
    experiment: str
    """Name of the MLflow experiment."""
    storage: ArtifactStorage
    sweep: SweepTrial | None = None
    """Set when the flow run is a trial and no job of its own."""

    @property
    def path(self) -> str:
        """Folder of the job in the storage."""
        if self.sweep is not None:
            return layout.trial(self.org, self.sweep.job_id, self.sweep.number)
        return layout.job(self.org, self.job_id)


_current: ContextVar[JobContext | None] = ContextVar("trainyard_job", default=None)


@contextmanager
def running_as(job: JobContext) -> Iterator[JobContext]:
    """Make `job` the job of every task that is called inside the block."""
    token = _current.set(job)
    try:
        yield job
    finally:
        _current.reset(token)


def current_job() -> JobContext:
    """Return the job of the running task; in somebody's own flow every task run is a job."""
    if job := _current.get():
        return job
    task_run, flow_run = TaskRunContext.get(), FlowRunContext.get()
    assert task_run is not None, "called outside of a task"
    flow_name = flow_run.flow.name if flow_run and flow_run.flow else "tasks"
    return JobContext(
        org=LOCAL_ORG,
        job_id=str(task_run.task_run.id),
        experiment=f"{LOCAL_ORG}/{flow_name}",
        storage=load_storage().patient(STORAGE_PATIENCE_S),
    )


class JobFolder:
    """Folder in which an action writes: on a local storage the job's own, else a copy that is pushed.

    What lies in folders whose name starts with `apart` is the work of other processes, and left alone.
    """

    def __init__(self, storage: ArtifactStorage, path: str, scratch: Path, apart: str | None = None) -> None:
        self.storage = storage
        self.path = path
        self._apart = apart
        direct = storage.local_path(path)
        self.work = scratch / "job" if direct is None else direct
        self.work.mkdir(parents=True, exist_ok=True)
        self._uploads: Uploads | None = None
        if direct is None:
            # An earlier attempt may have left checkpoints to go on from.
            if apart is None:
                storage.download_folder(path, self.work)
            else:
                for stored in storage.list_files(path):
                    if not self._is_apart(stored.path):
                        (self.work / stored.path).parent.mkdir(parents=True, exist_ok=True)
                        (self.work / stored.path).write_bytes(storage.read_bytes(f"{path}/{stored.path}"))
            self._uploads = Uploads(storage, path, self.work, [self._name(file) for file in self.files()])

    def files(self) -> list[Path]:
        """Return the files of the job, without traces of work that was interrupted."""
        found = (f for f in self.work.rglob("*") if f.is_file() and not is_internal(f.name))
        return sorted(f for f in found if not self._is_apart(self._name(f)))

    def _is_apart(self, name: str) -> bool:
        return self._apart is not None and "/" in name and name.startswith(self._apart)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.work).as_posix()

    def push(self, files: Sequence[Path], replaces: bool = False) -> None:
        """Bring finished files to a remote storage soon; files that are gone again are skipped.

        With `replaces`, what is gone from the folder is removed from the storage when `files` are there.
        """
        if self._uploads is not None:
            self._uploads.put(files, replaces)

    def publish(self, artifacts: Sequence[Artifact]) -> list[Artifact]:
        """Return the artifacts with size and SHA-256; a remote storage has the same files as the folder then.

        Raises:
            YardError: the storage did not take everything.
        """
        described = [
            artifact.model_copy(
                update={
                    "size_bytes": (self.work / artifact.path).stat().st_size,
                    "sha256": sha256_of(self.work / artifact.path),
                }
            )
            for artifact in artifacts
        ]
        if self._uploads is not None:
            files = self.files()
            self._uploads.put(files)
            self._uploads.finish()
            kept = {self._name(file) for file in files}
            for stored in self.storage.list_files(self.path):
                if stored.path not in kept and not self._is_apart(stored.path):
                    self.storage.remove(f"{self.path}/{stored.path}")
        return described

    def finish(self) -> None:
        """Wait until a remote storage has all that was pushed.

        Raises:
            YardError: it did not take everything.
        """
        if self._uploads is not None:
            self._uploads.finish()

    def write_result(self, result: JobResult) -> None:
        """Write `result.json`, the last file of a job."""
        self.finish()
        self.storage.write_json(f"{self.path}/result.json", result.model_dump(mode="json"))


@contextmanager
def job_folder(job: JobContext, apart: str | None = None) -> Iterator[tuple[JobFolder, Path]]:
    """Give the folder of the job and a scratch folder that is gone afterwards; nobody else works on the job.

    `apart` is as for `JobFolder`.
    """
    local = job.storage.local_path(job.path)
    if local is not None:
        local.mkdir(parents=True, exist_ok=True)
    with (
        job_lock(local, apart) if local is not None else nullcontext(),
        tempfile.TemporaryDirectory(prefix="trainyard-") as scratch,
    ):
        folder = JobFolder(job.storage, job.path, Path(scratch), apart)
        try:
            yield folder, Path(scratch)
        except BaseException:
            # The checkpoint that a stopped or failed job goes on from has to arrive as well.
            try:
                folder.finish()
            except YardError as error:
                logger.error("Not all files of the job are in the storage: %s", error)
            raise


def read_result(storage: ArtifactStorage, path: str) -> JobResult:
    """Return the record of a finished job.

    Raises:
        NotFound: the job has no result: it is unknown, not done or deleted.
    """
    return JobResult.model_validate(storage.read_json(f"{path}/result.json"))


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(action: Action, network: str | None) -> str:
    return f"{action} {network}" if network else str(action)

"""The job that the running task belongs to, and its folder in the artifact storage."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from prefect.context import FlowRunContext, TaskRunContext

from ..blocks import ArtifactStorage, layout, load_storage
from ..schemas.actions import Action
from ..schemas.results import Artifact, JobResult

#: Org of tasks that run in somebody's own flow, where no facade knows about orgs.
LOCAL_ORG = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """Who a task works for. `job_id` is a flow run id, or a task run id in somebody's own flow."""

    org: str
    job_id: str
    experiment: str
    """Name of the MLflow experiment."""
    storage: ArtifactStorage

    @property
    def path(self) -> str:
        """Folder of the job in the storage."""
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
        storage=load_storage(),
    )


class JobFolder:
    """Folder in which an action writes: on a local storage the job's own, else a copy that is pushed."""

    def __init__(self, storage: ArtifactStorage, path: str, scratch: Path) -> None:
        self.storage = storage
        self.path = path
        direct = storage.local_path(path)
        self.remote = direct is None
        self.work = scratch / "job" if direct is None else direct
        self.work.mkdir(parents=True, exist_ok=True)
        if self.remote:
            # An earlier attempt may have left checkpoints to go on from.
            storage.download_folder(path, self.work)

    def push(self, files: Sequence[Path]) -> None:
        """Bring finished files to a remote storage now; files that are gone again are skipped."""
        if not self.remote:
            return
        for file in files:
            if file.is_file():
                self.storage.upload_file(file, f"{self.path}/{file.relative_to(self.work).as_posix()}")

    def publish(self, artifacts: Sequence[Artifact]) -> list[Artifact]:
        """Return the artifacts with size and SHA-256; on a remote storage the folder is mirrored."""
        described = [
            artifact.model_copy(
                update={
                    "size_bytes": (self.work / artifact.path).stat().st_size,
                    "sha256": sha256_of(self.work / artifact.path),
                }
            )
            for artifact in artifacts
        ]
        if self.remote:
            kept = {f.relative_to(self.work).as_posix() for f in self.work.rglob("*") if f.is_file()}
            self.storage.upload_folder(self.work, self.path)
            for file in self.storage.list_files(self.path):
                if file.path not in kept:
                    self.storage.remove(f"{self.path}/{file.path}")
        return described

    def write_result(self, result: JobResult) -> None:
        """Write `result.json`, the last file of a job."""
        self.storage.write_json(f"{self.path}/result.json", result.model_dump(mode="json"))


@contextmanager
def job_folder(job: JobContext) -> Iterator[tuple[JobFolder, Path]]:
    """Give the folder of the job and a scratch folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="trainyard-") as scratch:
        yield JobFolder(job.storage, job.path, Path(scratch)), Path(scratch)


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

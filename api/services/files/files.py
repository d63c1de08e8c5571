"""Files of a job: what there is, and what a client picks of it."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ....blocks import ArtifactStorage, layout
from ....schemas.errors import InvalidInput, NotFound
from ....schemas.results import ArtifactKind, JobResult
from ....schemas.states import JobState
from ...catalog.models import Job

_SELECTED_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFile:
    """A file by the name that clients use; either it lies in the storage or its content is here."""

    name: str
    paths: tuple[str, ...] = ()
    """Where it lies; a log may have two parts."""
    content: bytes = b""


class FileService:
    def __init__(self, storage: ArtifactStorage, scratch: Path) -> None:
        self.storage = storage
        self._scratch = scratch

    async def names(self, job: Job, *, logs: bool, specs: bool) -> list[str]:
        """Return the names of the files of a job, its log and its spec among them when asked for."""
        names = [file.name for file in await asyncio.to_thread(self._of_job, job)]
        names += [self._log(job).name] if logs else []
        names += [_spec(job).name] if specs else []
        return names

    async def select(self, job: Job, names: Sequence[str], *, best: bool, latest: bool) -> list[JobFile]:
        """Return files by name, and the best or latest weights.

        Names are only compared with those that the job has; they never become paths.

        Raises:
            NotFound: a name that the job does not have, or no weights.
        """
        if len(names) > _SELECTED_MAX:
            raise InvalidInput(f"file_lists: more than {_SELECTED_MAX} names.", hint="Use :download for all of a job.")
        known = {file.name: file for file in await asyncio.to_thread(self._of_job, job)}
        for extra in (self._log(job), _spec(job)):
            known[extra.name] = extra
            known[f"../{extra.name}"] = extra  # what clients of 5.5 ask for
        chosen: dict[str, JobFile] = {}
        for name in names:
            if name not in known:
                raise NotFound("File not found.", hint=f"The job has no file {name[:200]!r}; see :list_files.")
            chosen[known[name].name] = known[name]
        for wanted, label in ((best, "best_epoch"), (latest, "latest_epoch")):
            if wanted:
                weights = _weights(job, label)
                if weights is None or weights not in known:
                    raise NotFound("The job has no weights.", hint="Only train, retrain and prune jobs make weights.")
                chosen[weights] = known[weights]
        return list(chosen.values()) if names or best or latest else list(known.values())

    async def pack(self, files: Sequence[JobFile]) -> tuple[IO[bytes], int]:
        """Return a tar.gz of files as an open temporary file and its size."""
        return await asyncio.to_thread(self._pack, files)

    def tar(self, job: Job) -> tuple[str, int]:
        """Return where the tar of a finished job lies and its size.

        Raises:
            NotFound: the job is not done.
        """
        if job.state != JobState.DONE or job.tar_size_bytes is None:
            raise NotFound("The job has no download.", hint="There is one when the job is Done.")
        return layout.download(job.org, job.id), job.tar_size_bytes

    async def log_paths(self, job: Job) -> list[str]:
        """Return where the parts of the log of a job lie, first to last.

        Raises:
            NotFound: there is no log.
        """
        paths = await asyncio.to_thread(self._log_paths, job)
        if not paths:
            raise NotFound("Logs not found.")
        return paths

    def _log_paths(self, job: Job) -> list[str]:
        paths = layout.earlier_log(job.org, job.id), layout.log(job.org, job.id)
        return [path for path in paths if self.storage.exists(path)]

    def _of_job(self, job: Job) -> list[JobFile]:
        folder = layout.job(job.org, job.id)
        return [
            JobFile(name=f"{job.id}/{file.path}", paths=(f"{folder}/{file.path}",))
            for file in self.storage.list_files(folder)
        ]

    def _log(self, job: Job) -> JobFile:
        return JobFile(name=f"logs/{job.id}.txt", paths=tuple(self._log_paths(job)))

    def _pack(self, files: Sequence[JobFile]) -> tuple[IO[bytes], int]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        packed = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the caller closes it
        try:
            with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
                for file in files:
                    info = tarfile.TarInfo(file.name)
                    if not file.paths:
                        info.size = len(file.content)
                        tar.addfile(info, io.BytesIO(file.content))
                        continue
                    with tempfile.TemporaryFile(dir=self._scratch) as frozen:
                        # why: a log may grow while it is packed, and a tar names the size first
                        for path in file.paths:
                            with self.storage.open(path) as source:
                                shutil.copyfileobj(source, frozen, 1 << 20)
                        info.size = frozen.tell()
                        frozen.seek(0)
                        tar.addfile(info, frozen)
            size = packed.tell()
            packed.seek(0)
        except BaseException:
            packed.close()
            raise
        return packed, size


def _spec(job: Job) -> JobFile:
    return JobFile(name=f"specs/{job.id}.json", content=json.dumps(job.spec, indent=1).encode())


def _weights(job: Job, label: str) -> str | None:
    """Return the name of the weights of the epoch that the result calls best or latest."""
    if job.result is None:
        return None
    result = JobResult.model_validate(job.result)
    artifact = result.artifact(ArtifactKind.WEIGHTS, getattr(result, label)) or result.artifact(ArtifactKind.WEIGHTS)
    return f"{job.id}/{artifact.path}" if artifact else None

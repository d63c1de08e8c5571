"""The folder on local disk where a worker keeps what its runs need, and what dead workers have left there."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path
from uuid import UUID

from prefect.logging import get_logger

from ..schemas.errors import JobFailed
from .processes import leftovers

logger = get_logger("trainyard.scratch")

_PREFIX = "worker-"
_LOCK = "lock"

#: Seconds that the end of a run waits for a storage that is slow to take its log.
_FINISH_S = 10.0

_finishing: set[Path] = set()


def default_root() -> Path:
    """Return where workers of this user keep their folders unless told otherwise."""
    set_by_user = os.environ.get("TRAINYARD_WORKER_SCRATCH")
    return Path(set_by_user) if set_by_user else Path(tempfile.gettempdir()) / f"trainyard-{os.getuid()}"


async def finish_log(spool: Path, wait_s: float = _FINISH_S) -> None:
    """Bring what is in the spool of a run's log to the storage.

    Trouble of the storage must not keep a run from its end: then the folder stays, for a later try.
    """
    if spool in _finishing:
        return
    _finishing.add(spool)
    work = asyncio.ensure_future(asyncio.to_thread(_finish, spool))
    work.add_done_callback(lambda _: _finishing.discard(spool))
    done, _ = await asyncio.wait([work], timeout=wait_s)
    if not done:
        logger.warning("The log in %s takes long to get to the storage.", spool)


def _finish(spool: Path) -> None:
    # Late: the facade has no other need for what it imports.
    from ..flows.joblog import finish_spool

    try:
        if spool.is_dir():
            finish_spool(spool)
    except Exception:  # whatever it is, nothing is lost yet
        logger.warning("The log in %s could not be brought to the storage.", spool, exc_info=True)


class Scratch:
    """The folder of one worker inside the root that all workers of a user share.

    The kernel drops the lock when the worker dies, however it dies.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self._owner = owner
        self._folder = root / f"{_PREFIX}{owner.rpartition(' ')[2].replace(':', '-')}"
        self._temporary = _temporary_of(self._folder)
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder, and be sure that nobody else can write to it."""
        for folder in (self.root, self._temporary):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH or not stat.S_ISDIR(status.st_mode):
                raise JobFailed(
                    f"The scratch folder {folder} belongs to somebody else or everybody may write to it.",
                    hint="Set TRAINYARD_WORKER_SCRATCH, or TMPDIR, to a folder of your own.",
                )
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, self._owner.encode())

    def close(self) -> None:
        for folder in (self._folder, self._temporary):
            shutil.rmtree(folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def working_folder(self, run_id: UUID) -> Path:
        """Return the folder that a run works in; it goes with the process."""
        return self._folder / str(run_id)

    def temporary_folder(self, run_id: UUID) -> Path:
        """Return the folder for temporary files of a run, by a short path: the sockets of DataLoaders lie in it."""
        return self._temporary / str(run_id)[:8]

    def spool(self, run_id: UUID) -> Path:
        """Return the folder of what a remote storage has not got of a run's log yet."""
        return self._folder / f"{run_id}.log"

    async def finish_logs(self, active: Container[UUID]) -> None:
        """Try again to bring the logs of runs that have ended to the storage."""
        for spool in self._folder.glob("*.log"):
            if UUID(spool.stem) not in active:
                await finish_log(spool)


def spools_of(run_id: UUID, root: Path) -> list[Path]:
    """Return what workers have left of the log of a run."""
    return [spool for spool in root.glob(f"{_PREFIX}*/{run_id}.log") if spool.is_dir()]


async def sweep(root: Path) -> None:
    """Remove the folders of dead workers. Their logs are brought to the storage first."""
    for folder in _folders(root):
        with _lock_of_dead(folder) as owner:
            if owner is None or leftovers(owner):
                continue
            spools = [spool for spool in folder.glob("*.log") if spool.is_dir()]
            for spool in spools:
                await finish_log(spool)
            shutil.rmtree(_temporary_of(folder), ignore_errors=True)
            if not any(spool.exists() for spool in spools):
                shutil.rmtree(folder, ignore_errors=True)


def _temporary_of(folder: Path) -> Path:
    """Return where runs of the worker with that folder have their temporary files."""
    return Path(tempfile.gettempdir()) / f"trainyard-{folder.name.removeprefix(_PREFIX)}"


def _folders(root: Path) -> list[Path]:
    return list(root.glob(f"{_PREFIX}*"))


@contextlib.contextmanager
def _lock_of_dead(folder: Path) -> Iterator[str | None]:
    """Yield the owner of a folder while its lock is ours; None when it lives."""
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # being made, or gone
        yield None
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
    else:
        # Empty between a worker's `open` and its lock.
        yield os.read(handle, 4096).decode() or None
    finally:
        os.close(handle)

"""One attempt of a job at a time: a lock that the kernel takes back when the process is gone."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..blocks.storage import INCOMING, LOCK_FILE
from ..schemas.errors import JobFailed

#: An attempt before this one that was told to end gets so long to be gone.
WAIT_S = 20.0

_POLL_S = 0.1


@contextmanager
def job_lock(folder: Path, apart: str | None = None) -> Iterator[None]:
    """Hold the lock of the job whose folder this is.

    Folders in it whose name starts with `apart` have locks of their own.

    Raises:
        JobFailed: another process still works on the job.
    """
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        deadline = time.monotonic() + WAIT_S
        while not _is_taken(handle):
            if time.monotonic() > deadline:
                raise JobFailed(
                    "Another process still works on this job.",
                    hint=f"It holds the lock {folder / LOCK_FILE}; end it, then resume the job.",
                )
            time.sleep(_POLL_S)
        _remove_half_written(folder, apart)
        yield
    finally:
        os.close(handle)


def _remove_half_written(folder: Path, apart: str | None) -> None:
    """Remove what an attempt was writing when it was killed: whoever has the lock is alone here."""
    for left in folder.rglob(f"{INCOMING}*"):
        if apart is None or not left.relative_to(folder).parts[0].startswith(apart):
            left.unlink(missing_ok=True)


def _is_taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""What all writers here share: a full disk becomes `StorageFull`, and a finished file is on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..schemas.errors import StorageFull

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def full_disk_as_storage_full(what: str) -> Iterator[None]:
    """Raise `StorageFull` in place of the system's error; `what` ends the sentence "No room left to ..."."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"No room left to {what}.") from error
        raise


def sync(path: Path) -> None:
    """Return when the file or folder `path` is on the disk, so that a rename after it is safe."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

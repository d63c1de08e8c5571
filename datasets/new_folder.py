"""A folder that is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import full_disk_as_storage_full, sync


@contextmanager
def new_folder(destination: Path, what: str) -> Iterator[Path]:
    """Give the block an empty folder, which becomes `destination` at its end, in place of one that is there.

    When the block raises, nothing of it stays. `what` ends the sentence "No room left to ...".
    """
    with full_disk_as_storage_full(what):
        destination.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        try:
            yield partial
            sync(partial)
            # why: mkdtemp makes folders that only their owner may enter.
            partial.chmod(0o755)
            if destination.exists():
                shutil.rmtree(destination)
            partial.rename(destination)
            sync(destination.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

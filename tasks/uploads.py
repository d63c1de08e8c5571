"""Files of a job on their way to a remote storage: sent from a thread, so training never waits for the storage."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefect.logging import get_logger

from ..blocks import ArtifactStorage
from ..blocks.patience import patiently
from ..schemas.errors import NotFound, Unavailable, YardError

logger = get_logger("trainyard.uploads")

#: How long a storage may be away before a file is given up, and how long the end of a job waits for it.
PATIENCE_S = 600.0


class Uploads:
    """Sends batches of files below `work` in the order they come in.

    A file that is gone when its turn comes is passed over: a newer checkpoint has replaced it.
    """

    def __init__(self, storage: ArtifactStorage, path: str, work: Path, known: Iterable[str]) -> None:
        # why impatient: the retries here are told of in the log.
        self._storage = storage.patient(0)
        self._path = path
        self._work = work
        #: Names that the storage has.
        self._known = set(known)
        #: Size and time of what was sent, to send it once.
        self._sent: dict[str, tuple[int, int]] = {}
        self._failed: dict[str, YardError] = {}
        self._queue: queue.SimpleQueue[tuple[Sequence[Path], bool] | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._send_all, name="trainyard-uploads", daemon=True).start()

    def put(self, files: Sequence[Path], replaces: bool = False) -> None:
        """Send `files` soon. With `replaces`, what is gone from `work` is removed from the storage after them."""
        self._queue.put((files, replaces))

    def finish(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait until everything is sent.

        Raises:
            YardError: something that is still in `work` is not in the storage.
        """
        done = threading.Event()
        self._queue.put(done)
        if not done.wait(timeout_s):
            raise Unavailable(f"The storage did not take all files of the job within {timeout_s:.0f} s.")
        for name, error in self._failed.items():
            if (self._work / name).is_file():
                raise error

    def _send_all(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
                continue
            files, replaces = item
            missing = [file for file in files if not self._send(file)]
            if replaces and not missing:
                self._drop_replaced({self._name(file) for file in files})

    def _name(self, file: Path) -> str:
        return file.relative_to(self._work).as_posix()

    def _send(self, file: Path) -> bool:
        name = self._name(file)
        try:
            stat = file.stat()
            version = (stat.st_size, stat.st_mtime_ns)
            if self._sent.get(name) != version:
                self._known.add(name)
                patiently(lambda: self._storage.upload_file(file, f"{self._path}/{name}"), PATIENCE_S, _tell)
                self._sent[name] = version
        except (FileNotFoundError, NotFound):
            return False
        except YardError as error:
            logger.warning("%s was not sent to the storage: %s", name, error)
            self._failed[name] = error
            return False
        except Exception as error:  # noqa: BLE001 - whatever a file system raises, the next file may be sent
            self._failed[name] = Unavailable(f"{name} was not sent to the storage: {type(error).__name__}: {error}.")
            return False
        self._failed.pop(name, None)
        return True

    def _drop_replaced(self, kept: set[str]) -> None:
        for name in sorted(self._known - kept):
            if not (self._work / name).exists():
                try:
                    self._storage.remove(f"{self._path}/{name}")
                except YardError as error:
                    logger.warning("An old file was not removed from the storage: %s", error)
                    return
                self._known.discard(name)


def _tell(error: Unavailable) -> None:
    logger.warning("Training goes on while the storage is away: %s", error)

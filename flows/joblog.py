"""The log file of a job: every line of its loggers, written before it is shipped anywhere else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..blocks import ArtifactStorage

#: Prefect's loggers of runs, and ours.
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.trainyard")

#: A remote storage gets the new lines this often; on a local one every line is appended at once.
PUSH_INTERVAL_S = 5.0


class JobLogHandler(logging.Handler):
    """Appends each record to the log in the storage. On a local disk a line is one atomic write."""

    def __init__(self, storage: ArtifactStorage, path: str) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        self._storage = storage
        self._path = path
        self._buffered: list[str] = []
        self._stop = threading.Event()
        self._pusher: threading.Thread | None = None
        if storage.root is None:
            self._pusher = threading.Thread(target=self._push_regularly, name="trainyard-log", daemon=True)
            self._pusher.start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record) + "\n"
        if self._pusher is None:
            self._storage.append_text(self._path, line)
        else:
            self._buffered.append(line)

    def close(self) -> None:
        self._stop.set()
        if self._pusher is not None:
            self._pusher.join()
        self._push()
        super().close()

    def _push_regularly(self) -> None:
        while not self._stop.wait(PUSH_INTERVAL_S):
            self._push()

    def _push(self) -> None:
        lines, self._buffered = self._buffered, []
        if lines:
            self._storage.append_text(self._path, "".join(lines))


@contextmanager
def job_log(storage: ArtifactStorage, path: str) -> Iterator[None]:
    """Write everything that is logged inside the block to the log of the job, the error included."""
    handler = JobLogHandler(storage, path)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        # A stop by Prefect (TerminationSignal) is a BaseException; it goes on upwards.
        logging.getLogger("prefect.trainyard").error("%s: %s", type(error).__name__, error)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()

"""The log file of a job: every line of its loggers, written before it is shipped anywhere else."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from ..blocks import ArtifactStorage, layout
from ..blocks.appending import GrowingFile
from ..schemas.errors import YardError
from ..tasks.redaction import redact_logs
from .logspool import Spool, finish_spool

__all__ = ["finish_spool", "job_log", "log_to"]

#: Prefect's loggers of runs, and ours.
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.trainyard")

#: A remote storage gets the new lines this often, or less when sending them takes long.
PUSH_INTERVAL_S = 5.0
PUSH_SHARE = 0.05

#: How long the end of a job waits for a storage that is away; then its worker goes on trying.
LAST_PUSH_S = 30.0

#: Environment variables from the worker: the folder of the spool, which outlives this process, and the attempt.
SPOOL_VARIABLE, ATTEMPT_VARIABLE = "TRAINYARD_LOG_SPOOL", "TRAINYARD_ATTEMPT"

#: Environment variable with the size at which a log is rotated.
LIMIT_VARIABLE = "TRAINYARD_LOG_MAX_BYTES"
LIMIT_BYTES = 32 * 2**20


class Sink(Protocol):
    def append(self, line: str) -> None: ...

    def close(self) -> None: ...


class LocalSink:
    """A log on a local disk: each line is there at once, whatever happens to this process."""

    def __init__(self, path: Path, earlier: Path, limit_bytes: int) -> None:
        self._file = GrowingFile(path)
        self._earlier = earlier
        self._limit_bytes = limit_bytes

    def append(self, line: str) -> None:
        if self._file.append(line) and self._file.path.stat().st_size > self._limit_bytes:
            self._file.path.replace(self._earlier)

    def close(self) -> None:
        self._file.flush()


class RemoteSink:
    """A log in a remote storage: lines are on the local disk at once and sent from a thread."""

    def __init__(self, storage: ArtifactStorage, path: str, earlier: str, limit_bytes: int) -> None:
        given = os.environ.get(SPOOL_VARIABLE)
        # why: a pipeline runs several jobs in one process, one after the other.
        self._folder = Path(given or tempfile.mkdtemp(prefix="trainyard-log-")) / Path(path).stem
        self._is_sent = False
        self._spool = Spool.create(self._folder, storage.patient(0), path, earlier, limit_bytes)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._push_regularly, name="trainyard-log", daemon=True)
        self._thread.start()

    def append(self, line: str) -> None:
        self._spool.append(line)

    def close(self) -> None:
        self._end.set()
        self._thread.join(LAST_PUSH_S + PUSH_INTERVAL_S)
        if self._is_sent:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _push_regularly(self) -> None:
        pause = PUSH_INTERVAL_S
        while not self._end.wait(pause):
            began = time.monotonic()
            self._push()
            pause = max(PUSH_INTERVAL_S, (time.monotonic() - began) / PUSH_SHARE)
        deadline = time.monotonic() + LAST_PUSH_S
        while not (sent := self._push()) and time.monotonic() < deadline:
            time.sleep(1)
        self._is_sent = sent

    def _push(self) -> bool:
        try:
            self._spool.push()
        except (YardError, OSError) as error:
            # why: not to the log of the job, which would grow by this line for as long as the storage is away.
            logging.getLogger("prefect.trainyard_log").warning("The log cannot be sent now: %s", error)
            return False
        return True


class JobLogHandler(logging.Handler):
    """Writes each record to the log in the storage."""

    def __init__(self, sink: Sink) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink.append(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - a line of the log must never end the training
            self.handleError(record)

    def close(self) -> None:
        self._sink.close()
        super().close()


def _sink(storage: ArtifactStorage, path: str, earlier: str) -> Sink:
    limit_bytes = int(os.environ.get(LIMIT_VARIABLE, LIMIT_BYTES))
    local, local_earlier = storage.local_path(path), storage.local_path(earlier)
    if local is not None and local_earlier is not None:
        return LocalSink(local, local_earlier, limit_bytes)
    return RemoteSink(storage, path, earlier, limit_bytes)


def job_log(storage: ArtifactStorage, org: str, job_id: str) -> AbstractContextManager[None]:
    """Write everything that is logged inside the block to the log of the job; see `log_to`."""
    return log_to(storage, layout.log(org, job_id), layout.earlier_log(org, job_id))


@contextmanager
def log_to(storage: ArtifactStorage, path: str, earlier: str) -> Iterator[None]:
    """Write everything that is logged inside the block to the log at `path`, the error included.

    When that grows too long, it becomes `earlier` and a new one begins.

    No secret of the environment or of the storage is in it, nor in what Prefect gets from the same loggers.
    """
    handler = JobLogHandler(_sink(storage, path, earlier))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    redaction = redact_logs(LOGGERS, [storage.secret_key.get_secret_value()] if storage.secret_key else [])
    ours = logging.getLogger("prefect.trainyard")
    if (attempt := os.environ.get(ATTEMPT_VARIABLE, "1")) != "1":
        ours.info("Attempt %s on %s.", attempt, platform.node())
    try:
        yield
    except Exception as error:
        redaction.clean_error(error)
        ours.error("%s: %s", type(error).__name__, error)
        raise
    except BaseException as error:
        # Prefect's TerminationSignal and Pause, or KeyboardInterrupt: somebody stopped the job.
        ours.info("The job was stopped (%s).", type(error).__name__)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()

"""Where the reports of a running action go: log, `status.json`, Prefect events and artifacts, MLflow."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect.events import emit_event
from prefect.exceptions import MissingContextError
from prefect.logging import get_logger, get_run_logger

from ..blocks.appending import GrowingFile
from ..schemas.progress import PROGRESS_EVENT, JobProgress
from ..schemas.results import EpochMetrics
from ..schemas.sweeps import SweepProgress
from .artifacts import ProgressArtifact
from .context import JobContext, JobFolder
from .stopping import StopRequest
from .tracking import MetricsWriter

#: Reports between two epochs are thinned out to one in so many seconds.
MIN_INTERVAL_S = 0.5

STATUS_FILE = "status.json"


class JobReporter:
    """Takes the reports of one attempt of a job."""

    def __init__(self, job: JobContext, folder: JobFolder, title: str) -> None:
        self._job = job
        self._folder = folder
        self._logger = run_logger()
        self._progress = ProgressArtifact(title) if job.sweep is None else None
        self._last_report = 0.0
        self._last_fraction = 0.0
        self._last_message = ""
        self._seconds_per_epoch: list[float] = []
        self._status = GrowingFile(folder.work / STATUS_FILE)
        self.stop = StopRequest()
        self._metrics: MetricsWriter | None = None
        self.history: list[EpochMetrics] = _earlier_epochs(self._status.path)

    def send_metrics_to(self, writer: MetricsWriter) -> None:
        """Send the metrics of all epochs, those of earlier attempts first: the last of these may have got lost."""
        self._metrics = writer
        for epoch in self.history:
            writer.put(epoch)

    def log(self, message: str) -> None:
        self._logger.info(message)

    def progress(self, fraction: float, message: str, *, at_once: bool = False) -> None:
        """Report; `at_once` whatever was reported just before."""
        self._last_fraction, self._last_message = fraction, message
        now = time.monotonic()
        if fraction < 1 and not at_once and now - self._last_report < MIN_INTERVAL_S:
            return
        self._last_report = now
        self._report(JobProgress(job_id=self._job.job_id, at=datetime.now(UTC), fraction=fraction, message=message))

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        record = EpochMetrics(epoch=epoch, max_epoch=max_epoch, metrics=dict(metrics), seconds=seconds)
        self.history = [e for e in self.history if e.epoch != epoch] + [record]
        self._seconds_per_epoch.append(seconds)
        if self._metrics is not None:
            self._metrics.put(record)
        numbers = " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
        self._logger.info("epoch %d/%d %s (%.2f s)", epoch, max_epoch, numbers, seconds)
        recent = self._seconds_per_epoch[-5:]
        self._last_report = time.monotonic()
        self._report(
            JobProgress(
                job_id=self._job.job_id,
                at=datetime.now(UTC),
                fraction=epoch / max_epoch,
                message=f"epoch {epoch} of {max_epoch}",
                epoch=record,
                eta_s=(max_epoch - epoch) * sum(recent) / len(recent),
            )
        )

    def usage(self, usage: Mapping[str, float]) -> None:
        """Take what the job uses now; nothing else about it has changed."""
        self._report(
            JobProgress(
                job_id=self._job.job_id,
                at=datetime.now(UTC),
                fraction=self._last_fraction,
                message=self._last_message,
                usage=dict(usage),
            )
        )

    def sweep(self, fraction: float, message: str, sweep: SweepProgress) -> None:
        """Take how far a sweep is."""
        self._last_report = time.monotonic()
        self._report(
            JobProgress(
                job_id=self._job.job_id,
                at=datetime.now(UTC),
                fraction=fraction,
                message=message,
                eta_s=sweep.eta_s,
                sweep=sweep,
            )
        )

    def saved(self, paths: Sequence[Path]) -> None:
        # The epochs before the checkpoint are part of the history of whoever goes on from it.
        self._folder.push([self._status.path, *paths], replaces=True)

    def stop_requested(self) -> bool:
        return self.stop.is_requested()

    def allow_interruption(self) -> None:
        self.stop.allow_interruption()

    def close(self) -> None:
        self._status.flush()
        if self._progress is not None:
            self._progress.close()

    def _report(self, progress: JobProgress) -> None:
        payload = progress.model_dump(mode="json")
        self._status.append(json.dumps(payload) + "\n")
        emit_event(
            event=PROGRESS_EVENT,
            resource={"prefect.resource.id": f"trainyard.job.{self._job.job_id}"},
            payload=payload,
        )
        if self._progress is not None:
            self._progress.update(progress)


def run_logger() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """Return Prefect's logger of the run, or a plain one outside of runs."""
    try:
        return get_run_logger()
    except MissingContextError:
        return get_logger("trainyard")


def _earlier_epochs(status: Path) -> list[EpochMetrics]:
    """Return the epochs that earlier attempts of the job have reported, the latest report of each."""
    if not status.is_file():
        return []
    epochs: dict[int, EpochMetrics] = {}
    for line in status.read_text(encoding="utf-8").splitlines():
        try:
            progress = JobProgress.model_validate_json(line)
        except ValueError:
            continue  # the line was cut off when an earlier attempt was killed
        if progress.epoch is not None:
            epochs[progress.epoch.epoch] = progress.epoch
    return [epochs[number] for number in sorted(epochs)]

"""What a job shows in the Prefect UI: progress, tables, pictures and a link to its MLflow run."""

from __future__ import annotations

import base64
import queue
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_logger
from prefect.utilities.slugify import slugify

from ..schemas.progress import JobProgress
from ..schemas.results import ArtifactKind, JobResult

logger = get_logger("trainyard.artifacts")

#: Pictures are kept inside the artifact, so they outlive servers and ports; larger ones are left out.
MAX_PICTURE_BYTES = 1_000_000


def _key(title: str, what: str) -> str:
    """Return a key that the artifacts of all jobs of one kind share: Prefect shows them as its versions."""
    return slugify(f"{title} {what}")


class ProgressArtifact:
    """A progress bar in the Prefect UI, updated from a thread so that training never waits for it."""

    def __init__(self, title: str) -> None:
        self._queue: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._id: UUID | None = None
        if FlowRunContext.get() is None and TaskRunContext.get() is None:
            return
        made = create_progress_artifact(0.0, key=_key(title, "progress"), description="Progress of the job")
        assert isinstance(made, UUID)  # a coroutine only where an event loop runs
        self._id = made
        self._thread = threading.Thread(target=self._send_all, name="trainyard-progress", daemon=True)
        self._thread.start()

    def update(self, progress: JobProgress) -> None:
        self._queue.put(progress.fraction * 100)

    def close(self) -> None:
        """Send what is left; a server that is away does not hold up the job."""
        if self._id is not None:
            self._queue.put(None)
            self._thread.join(timeout=5)

    def _send_all(self) -> None:
        assert self._id is not None
        ended = False
        while not ended:
            percent = self._queue.get()
            while not self._queue.empty() and percent is not None:
                newer = self._queue.get()
                ended = newer is None
                percent = percent if newer is None else newer
            if percent is None:
                return
            try:
                update_progress_artifact(self._id, percent)
            except Exception as error:  # noqa: BLE001 - a progress bar must never stop a training job
                logger.warning("The progress artifact was not updated: %s", error)


def publish_artifacts(title: str, result: JobResult, folder: Path, run_url: str | None) -> None:
    """Leave the result of a job in the Prefect UI."""
    if FlowRunContext.get() is None and TaskRunContext.get() is None:
        return
    if run_url:
        create_link_artifact(
            run_url, link_text="MLflow run", key=_key(title, "mlflow"), description="Metrics of the job"
        )
    rows = [{"metric": name, "value": f"{value:.6g}"} for name, value in result.kpi.items()]
    if result.parameter_count is not None:
        rows.append({"metric": "parameters", "value": f"{result.parameter_count:,}"})
    if rows:
        create_table_artifact(rows, key=_key(title, "metrics"), description=f"Metrics of {result.action}")
    per_class = _per_class(result)
    if per_class:
        create_table_artifact(per_class, key=_key(title, "classes"), description="Metrics per class")
    if result.history:
        create_table_artifact(
            [{"epoch": e.epoch, **{k: f"{v:.5g}" for k, v in e.metrics.items()}} for e in result.history],
            key=_key(title, "epochs"),
            description="Metrics per epoch",
        )
    for artifact in result.artifacts:
        file = folder / artifact.path
        if artifact.kind is ArtifactKind.FIGURE and file.stat().st_size <= MAX_PICTURE_BYTES:
            picture = base64.b64encode(file.read_bytes()).decode()
            create_image_artifact(
                f"data:image/png;base64,{picture}",
                key=_key(title, file.stem),
                description=artifact.title or file.stem,
            )


def _per_class(result: JobResult) -> list[dict[str, Any]]:
    classes = sorted({name for values in result.categorical.values() for name in values})
    return [
        {"class": name, **{m: f"{values[name]:.4g}" for m, values in result.categorical.items() if name in values}}
        for name in classes
    ]

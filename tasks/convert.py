"""The convert and dataset_convert actions: a data set becomes its canonical indexed form."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from prefect import task

from ..datasets.formats import build_index
from ..datasets.index import open_index
from ..schemas.actions import Action
from ..schemas.results import Artifact, ArtifactKind, JobResult
from .artifacts import publish_artifacts
from .context import current_job, job_folder
from .data import INDEX, index_source, remember_index
from .reporter import JobReporter
from .tracking import tracking


@task(name="convert")
def convert(data: str | Path, *, format: str | None = None, action: Action = Action.CONVERT) -> JobResult:
    """Index a data set once, so that later jobs read it in one piece.

    `data` is the address of an uploaded data set or a local folder of images; `format` is for
    the folder: `default` (one folder per class), `unet` (images and masks) or `raw` (no labels). The index
    lies in the folder `index` of the job.

    Raises:
        DatasetError: the data set is empty, broken or not of its format.
        NotFound: there is no such data set.
    """
    job = current_job()
    with job_folder(job) as (folder, scratch), tracking(job, folder) as run:
        reporter = JobReporter(job, folder, str(action))
        started, start = datetime.now(UTC), time.monotonic()
        try:
            source = index_source(job.storage, data, scratch, format)
            reporter.progress(0.0, f"indexing {source.format} images")
            build_index(source.folder, source.format, folder.work / INDEX, type=source.type)
            index = open_index(folder.work / INDEX)
            counts = index.info.class_counts
            run.describe(
                title=str(action),
                action=action,
                network=None,
                spec={"format": source.format},
                parent=None,
                datasets={"source": (str(data), index.digest)},
            )
            files = sorted(p for p in (folder.work / INDEX).iterdir() if p.is_file())
            result = JobResult(
                action=action,
                uri=job.storage.address(job.path),
                job_id=job.job_id,
                artifacts=folder.publish(
                    [Artifact(path=f"{INDEX}/{p.name}", kind=ArtifactKind.INDEX, title=p.name) for p in files]
                ),
                kpi={"images": float(len(index)), "classes": float(len(index.classes or counts))},
                categorical={"images": {name: float(count) for name, count in counts.items()}} if counts else {},
                classes=list(index.classes),
                message=f"{len(index)} images of {len(index.classes or counts)} classes indexed.",
                mlflow_run_id=run.run_id,
                dataset_digests={"source": index.digest},
                started_at=started,
                seconds=round(time.monotonic() - start, 3),
            )
            publish_artifacts(str(action), result, folder.work, run.url)
            run.finish(result)
            reporter.progress(1.0, result.message)
        finally:
            reporter.close()
        folder.write_result(result)
        if source.stored is not None:
            remember_index(job.storage, source.stored, f"{job.path}/{INDEX}")
    return result

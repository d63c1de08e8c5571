"""The frame around every action of a data set: its files, spec, MLflow run, reports, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..datasets.data_types import INSTANCE_SEGMENTATION
from ..datasets.folder import read_folder
from ..datasets.formats import DataFormat, data_format
from ..datasets.index import open_index
from ..datasets.manifest import digest_of, hash_file
from ..schemas.actions import CONVERSIONS, Action
from ..schemas.errors import ActionNotAllowed
from ..schemas.results import Artifact, ArtifactKind, JobResult, Output
from ..schemas.specs import Spec, parse_spec
from .artifacts import publish_artifacts
from .context import current_job, job_folder
from .data import INDEX, IndexSource, index_source, remember_index
from .reporter import JobReporter
from .tracking import tracking

#: Folder of the files of a new data set in the folder of the job that makes it.
DATASET = "dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInputs:
    """What an action of a data set works on."""

    root: Path
    """The files as they were uploaded."""
    kind: DataFormat
    spec: Spec
    out: Path
    reporter: JobReporter

    @property
    def needs_masks(self) -> bool:
        return self.kind.type == INSTANCE_SEGMENTATION


def run_dataset_action(
    action: Action,
    call: Callable[[DatasetInputs], Output],
    *,
    data: str | Path,
    format: str | None,
    type: str | None,
    spec: Mapping[str, object] | None,
) -> JobResult:
    """Run one action of a data set as the current job and return its record.

    `data` is the address of a data set in the storage, or a local folder of the given format and type.

    Raises:
        YardError: bad spec or data; see `schemas.errors`.
    """
    job = current_job()
    with job_folder(job) as (folder, scratch), tracking(job, folder) as run:
        reporter = JobReporter(job, folder, str(action))
        started, start = datetime.now(UTC), time.monotonic()
        try:
            source = index_source(job.storage, data, scratch, format, type)
            kind = data_format(source.format, source.type)
            parsed = parse_spec(_spec_of(kind, action), dict(spec or {}))
            reporter.progress(0.0, f"{action} of a data set in the format {kind.name}")
            inputs = DatasetInputs(root=source.folder, kind=kind, spec=parsed, out=folder.work, reporter=reporter)
            output = call(inputs)
            digest = open_index(folder.work / INDEX).digest if action in CONVERSIONS else _digest(source)
            run.describe(
                title=str(action),
                action=action,
                network=None,
                spec={"format": kind.name, **parsed.model_dump(mode="json")},
                parent=None,
                datasets={"source": (str(data), digest)},
            )
            result = JobResult(
                **output.model_dump(exclude={"artifacts"}),
                artifacts=folder.publish(output.artifacts),
                action=action,
                uri=job.storage.address(job.path),
                job_id=job.job_id,
                spec=parsed.model_dump(mode="json"),
                mlflow_run_id=run.run_id,
                dataset_digests={"source": digest},
                started_at=started,
                seconds=round(time.monotonic() - start, 3),
            )
            publish_artifacts(str(action), result, folder.work, run.url)
            run.finish(result)
            reporter.progress(1.0, result.message)
        finally:
            reporter.close()
        folder.write_result(result)
        if action in CONVERSIONS and source.stored is not None:
            remember_index(job.storage, source.stored, f"{job.path}/{INDEX}", parsed.model_dump(mode="json"))
    return result


def _spec_of(kind: DataFormat, action: Action) -> type[Spec]:
    if action not in kind.specs:
        raise ActionNotAllowed(
            f"A data set of {kind.type} in the format {kind.name} has no action '{action}'.",
            hint=f"Its actions are {', '.join(kind.specs)}." if kind.specs else "It has none.",
        )
    return kind.specs[action]


def _digest(source: IndexSource) -> str:
    return source.digest or digest_of(hash_file(source.folder, path) for path in read_folder(source.folder).files)


def artifacts(files: Iterable[Path], out: Path, kind: ArtifactKind) -> list[Artifact]:
    """Return files below `out` as artifacts that have their names as titles."""
    return [Artifact.at(file, out, kind, file.name) for file in files]


def dataset_files(out: Path) -> list[Artifact]:
    """Return the files of the data set that a job has made."""
    return artifacts(sorted(f for f in (out / DATASET).rglob("*") if f.is_file()), out, ArtifactKind.DATASET)

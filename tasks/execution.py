"""The frame around every action: inputs, spec, MLflow run, reports, result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..datasets.index import open_index
from ..networks.registry import get_network, load_implementation
from ..schemas.actions import MODEL_PARENTS, Action
from ..schemas.errors import ActionNotAllowed, NotFound
from ..schemas.jobs import ModelChoice
from ..schemas.model_choice import choose_model
from ..schemas.results import ArtifactKind, JobResult, Output
from ..schemas.specs import Spec, parse_spec
from .artifacts import publish_artifacts
from .context import JobContext, current_job, describe, job_folder, read_result
from .data import DatasetLike, index_folder
from .forks import tolerate_forks
from .reporter import STATUS_FILE, JobReporter
from .tracking import log_model, tracking

#: A parent job: what a task returned, or the address of a job's folder in the storage.
ParentLike = JobResult | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What an action of a network works on; all paths are local."""

    spec: Spec
    implementation: Any
    data: Mapping[str, Path]
    """Index folders by role: train, eval, inference, calibration; a tensorfile stands for the last one."""
    model: Path | None
    out: Path
    reporter: JobReporter


def run_network_action(
    action: Action,
    call: Callable[[Inputs], Output],
    *,
    network: str | None,
    spec: Mapping[str, object] | None,
    datasets: Mapping[str, DatasetLike | None],
    parent: ParentLike | None = None,
    choice: ModelChoice | None = None,
    base_weights: str | None = None,
) -> JobResult:
    """Run one action of a network as the current job and return its record.

    `datasets` are by role; labelled ones but `inference`. The model is the one that `parent`
    made; `choice` is among its weights, the best epoch by default.

    Raises:
        YardError: bad spec, data or parent; see `schemas.errors`.
    """
    tolerate_forks()
    job = current_job()
    record = _read_parent(job, parent)
    chosen = get_network(network or (record.network if record else None) or "")
    if record is not None and record.network not in (None, chosen.name):
        raise ActionNotAllowed(f"The parent job is of {record.network}, not of {chosen.name}.")
    title = describe(action, chosen.name)
    parsed = parse_spec(chosen.spec(action), dict(spec or {}))
    with job_folder(job) as (folder, scratch), tracking(job, folder) as run:
        reporter = JobReporter(job, folder, title)
        reporter.send_metrics_to(run.writer)
        started, start = datetime.now(UTC), time.monotonic()
        try:
            given = {role: dataset for role, dataset in datasets.items() if dataset is not None}
            source, images = record, None
            if record is not None and record.action is Action.CALIBRATION_TENSORFILE:
                source = _read_parent(job, record.parent_uri)
                images = _artifact_of(job, record, ArtifactKind.CALIBRATION, scratch / "calibration")
                given.pop("calibration", None)
            labelled = chosen.dataset_formats[0]
            # why: what makes masks of boxes needs these for its predictions too.
            unlabelled = "raw" if "raw" in chosen.dataset_formats else labelled
            data = {
                role: index_folder(
                    job,
                    dataset,
                    scratch,
                    reporter,
                    format=unlabelled if role == "inference" else labelled,
                    type=chosen.dataset_type,
                )
                for role, dataset in given.items()
            }
            digests = {role: open_index(path).digest for role, path in data.items()}
            run.describe(
                title=title,
                action=action,
                network=chosen.name,
                spec=parsed.model_dump(mode="json"),
                parent=record,
                datasets={role: (_address(given[role]), digest) for role, digest in digests.items()},
            )
            inputs = Inputs(
                spec=parsed,
                implementation=load_implementation(chosen),
                data=data if images is None else {**data, "calibration": images},
                model=_model_of(job, action, source, choice or ModelChoice(), base_weights, scratch),
                out=folder.work,
                reporter=reporter,
            )
            with reporter.stop.installed():
                output = call(inputs)
                reporter.allow_interruption()
            result = JobResult(
                **output.model_dump(exclude={"artifacts"}),
                artifacts=folder.publish(output.artifacts),
                action=action,
                network=chosen.name,
                uri=job.storage.address(job.path),
                job_id=job.job_id,
                parent_uri=record.uri if record else None,
                spec=parsed.model_dump(mode="json"),
                history=reporter.history,
                mlflow_run_id=run.run_id,
                dataset_digests=digests,
                started_at=started,
                seconds=round(time.monotonic() - start, 3),
            )
            if job.sweep is None:  # the sweep does this for its best trial
                publish_artifacts(title, result, folder.work, run.url)
                log_model(run, result, folder.work, inputs.implementation)
            run.finish(result)
        finally:
            reporter.close()
        folder.push([folder.work / STATUS_FILE])
        folder.write_result(result)
        reporter.progress(1.0, result.message or "done")
    return result


def _read_parent(job: JobContext, parent: ParentLike | None) -> JobResult | None:
    if parent is None or isinstance(parent, JobResult):
        return parent
    return read_result(job.storage, job.storage.relative(parent))


def _model_of(
    job: JobContext,
    action: Action,
    parent: JobResult | None,
    choice: ModelChoice,
    base_weights: str | None,
    scratch: Path,
) -> Path | None:
    """Return the model file that the action starts from; None where it starts from random weights.

    Raises:
        ActionNotAllowed: the parent's action leaves no model for this one.
        NotFound: the parent's model file is gone.
    """
    if parent is None:
        return job.storage.local_copy(base_weights, scratch / "base") if base_weights else None
    if parent.action not in MODEL_PARENTS.get(action, frozenset()):
        if action is Action.TRAIN:
            return None  # the parent of a train job may be a convert job: only an order, no model
        raise ActionNotAllowed(
            f"{action} cannot start from the result of {parent.action}.",
            hint=f"Its parent is one of: {', '.join(sorted(MODEL_PARENTS.get(action, frozenset()))) or 'none'}.",
        )
    artifact = choose_model(parent, choice)
    folder, _, name = f"{job.storage.relative(parent.uri)}/{artifact.path}".rpartition("/")
    if artifact.kind is ArtifactKind.ENGINE:
        # A TensorRT engine has a description beside it.
        return job.storage.local_copy(folder, scratch / "parent") / name
    return job.storage.local_copy(f"{folder}/{name}", scratch / "parent")


def _artifact_of(job: JobContext, parent: JobResult, kind: ArtifactKind, scratch: Path) -> Path:
    artifact = parent.artifact(kind)
    if artifact is None:
        raise NotFound(f"The parent job {parent.job_id} left no {kind}.", hint="Run the parent job again.")
    return job.storage.local_copy(f"{job.storage.relative(parent.uri)}/{artifact.path}", scratch)


def _address(dataset: DatasetLike) -> str:
    return dataset.uri if isinstance(dataset, JobResult) else str(dataset)

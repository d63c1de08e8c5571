"""The action of a bundle: its environment is built, its stages are run one after the other, its models are kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task

from ..blocks import ArtifactStorage, layout
from ..blocks.layout import BUNDLE_CODE, BUNDLE_DATA, BUNDLE_RECORD, MODELS, TRAINING
from ..datasets.bundle import BUNDLE_LIMITS
from ..datasets.zip_archive import extract_zip
from ..schemas.actions import Action
from ..schemas.bundles import (
    BUILDING_MESSAGE,
    BundleManifest,
    BundleRecord,
    ParentModel,
    Report,
    Resources,
    Stage,
    TrainingRecord,
)
from ..schemas.errors import InvalidInput, JobFailed, NotFound
from ..schemas.results import Artifact, ArtifactKind, EpochMetrics, JobResult
from .artifacts import publish_artifacts
from .bundle_models import BundleModels, read_record
from .context import JobContext, JobFolder, current_job, job_folder, read_result
from .environments import environment, read_requirements
from .redaction import REDACTION
from .reporter import STATUS_FILE, JobReporter
from .sandbox import Sandbox, SandboxLimits, can_confine
from .stopping import GRACE_S, GRACE_SHARE, GRACE_VARIABLE
from .tracking import Tracking, tracking
from .usage import metered

#: Processes and threads that a stage may have at a time: fewer than would keep others from starting any.
_PROCESSES_MAX = 4096
_MIB = 2**20
_BUILT = 0.1


@task(name="train bundle")
def train_bundle(bundle: str, parameters: Mapping[str, Any] | None = None) -> JobResult:
    """Train a bundle that lies at the address `bundle` in the storage, and return the record with its models.

    `parameters` stand in for those of the manifest with the same names.

    Raises:
        JobFailed: the environment cannot be built, a stage has failed or not made what it should.
        InvalidInput: a parameter that the manifest does not have, or of another type.
        NotFound: there is no such bundle, or a parent of it is gone.
    """
    job = current_job()
    source = job.storage.relative(bundle)
    record = BundleRecord.model_validate(job.storage.read_json(f"{source}/{BUNDLE_RECORD}"))
    values = chosen_parameters(record.manifest, parameters or {})
    with job_folder(job) as (folder, scratch), tracking(job, folder) as run:
        title = f"{Action.TRAIN_BUNDLE} {record.manifest.name}"
        reporter = JobReporter(job, folder, title)
        started, start = datetime.now(UTC), time.monotonic()
        try:
            training = read_record(folder)
            training.parameters, training.mlflow_run_id = values, run.run_id
            training.parents = _fetch_parents(job, record.manifest, scratch / "parents")
            _describe(run, title, job, record, values, training, job.storage.address(source))
            _train(job, source, record.manifest, values, training, folder, scratch, reporter, run)
            result = JobResult(
                action=Action.TRAIN_BUNDLE,
                uri=job.storage.address(job.path),
                job_id=job.job_id,
                artifacts=folder.publish(_artifacts(training)),
                kpi=training.metrics,
                message=_summary(training),
                spec={"bundle": bundle, "parameters": values},
                mlflow_run_id=run.run_id,
                dataset_digests={"code": record.code_sha256, "data": record.data_sha256},
                started_at=started,
                seconds=round(time.monotonic() - start, 3),
            )
            publish_artifacts(str(Action.TRAIN_BUNDLE), result, folder.work, run.url)
            run.finish(result)
        finally:
            reporter.close()
        folder.push([folder.work / STATUS_FILE])
        folder.write_result(result)
        reporter.progress(1.0, result.message)
    return result


def chosen_parameters(manifest: BundleManifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job: those of the manifest, with what is given instead.

    Raises:
        InvalidInput: a name that the manifest does not have, or a value of another type.
    """
    values: dict[str, Any] = dict(manifest.parameters)
    for name, value in given.items():
        if name not in values:
            raise InvalidInput(
                f"parameters.{name}: the bundle has no such parameter.",
                hint=f"It has {', '.join(sorted(values)) or 'none'}.",
            )
        wanted = type(values[name])
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise InvalidInput(f"parameters.{name}: it is a {wanted.__name__}, not {type(value).__name__}.")
        values[name] = value
    return values


def _describe(
    run: Tracking,
    title: str,
    job: JobContext,
    record: BundleRecord,
    values: Mapping[str, Any],
    training: TrainingRecord,
    address: str,
) -> None:
    parent = training.parents[0].job_id if training.parents else None
    run.describe(
        title=title,
        action=Action.TRAIN_BUNDLE,
        network=None,
        spec=values,
        parent=read_result(job.storage, layout.job(job.org, parent)) if parent else None,
        datasets={
            "code": (f"{address}/{BUNDLE_CODE}", record.code_sha256),
            "data": (f"{address}/{BUNDLE_DATA}", record.data_sha256),
        },
    )


def _train(
    job: JobContext,
    source: str,
    manifest: BundleManifest,
    values: Mapping[str, Any],
    training: TrainingRecord,
    folder: JobFolder,
    scratch: Path,
    reporter: JobReporter,
    run: Tracking,
) -> None:
    """Build and run; what is known of models and environment is in `training` then, and with the job."""
    root = scratch / "bundle"
    _unpack(job.storage, source, root, scratch)
    exchange = scratch / "exchange"
    exchange.mkdir()
    parameters, reports = exchange / "parameters.json", exchange / "metrics.jsonl"
    parameters.write_text(json.dumps(values), encoding="utf-8")
    models = folder.work / MODELS
    models.mkdir(exist_ok=True)
    if not can_confine():
        reporter.log("The kernel of this worker is too old to keep programs from the files of others.")

    def on_report(report: Report) -> None:
        if report.metrics:
            run.writer.put(EpochMetrics(epoch=report.step, max_epoch=0, metrics=report.metrics, seconds=0.0))
        if report.progress is not None or report.message:
            fraction = _BUILT + (1 - _BUILT) * (report.progress or 0.0)
            reporter.progress(min(fraction, 0.99), report.message or "Training.")

    watcher = BundleModels(folder, reports, training, on_report=on_report, say=reporter.log)
    limits = _limits(manifest.resources)
    variables = {
        "PYTHONUNBUFFERED": "1",
        "TRAINYARD_JOB_ID": job.job_id,
        "TRAINYARD_PARAMETERS": str(parameters),
        "TRAINYARD_METRICS": str(reports),
        "TRAINYARD_MODELS": str(models),
        "TRAINYARD_PARENTS": str(scratch / "parents"),
    }

    def sandbox_of(venv: Path, readable: Sequence[Path] = ()) -> Sandbox:
        return Sandbox(
            root,
            variables,
            limits,
            reporter.log,
            REDACTION.clean,
            venv=venv,
            shared=[exchange, models],
            readable=[scratch / "parents", *readable],
        )

    reporter.progress(0.0, BUILDING_MESSAGE)
    requirements = read_requirements(root, manifest.requirements)
    with environment(job.org, requirements, scratch / "venv", sandbox_of, reporter.log) as (sandbox, made):
        training.environment = made
        watcher.save()
        with _measured(sandbox, reporter, run):
            for number, stage in enumerate(manifest.stages):
                done = _BUILT + (1 - _BUILT) * number / len(manifest.stages)
                reporter.progress(done, f"The stage {stage.name} is running.", at_once=True)
                with watcher.watched():
                    _run_stage(sandbox, stage, root)
    if not training.models:
        reporter.log("No model was left in $TRAINYARD_MODELS.")
    watcher.save()


def _run_stage(sandbox: Sandbox, stage: Stage, root: Path) -> None:
    for wanted in stage.inputs:
        if not (root / wanted).exists():
            raise JobFailed(f"The stage {stage.name} needs {wanted}, and no stage before it has left that.")
    for output in stage.outputs:
        (root / output).parent.mkdir(parents=True, exist_ok=True)
    grace_s = GRACE_SHARE * float(os.environ.get(GRACE_VARIABLE, GRACE_S))
    status = sandbox.run(["python", stage.entry_point, *stage.arguments], grace_s=grace_s)
    if status != 0:
        raise JobFailed(
            sandbox.excess or f"The stage {stage.name} ended {_ended(status)}.", hint="The log of the job says more."
        )
    if missing := [output for output in stage.outputs if not (root / output).exists()]:
        raise JobFailed(f"The stage {stage.name} has not made {', '.join(missing)}, which the manifest promises.")


@contextmanager
def _measured(sandbox: Sandbox, reporter: JobReporter, run: Tracking) -> Iterator[None]:
    def take(usage: dict[str, float]) -> None:
        reporter.usage(usage)
        run.writer.put(EpochMetrics(epoch=int(time.time()), max_epoch=0, metrics=usage, seconds=0.0))

    with metered(lambda: sandbox.pid, take):
        yield


def _unpack(storage: ArtifactStorage, source: str, root: Path, scratch: Path) -> None:
    # Apart first: a folder must be empty to be unpacked into.
    for name in (BUNDLE_CODE, BUNDLE_DATA):
        if not storage.exists(f"{source}/{name}"):
            continue
        packed = storage.local_copy(f"{source}/{name}", scratch / "packed")
        part = scratch / f"part-{name}"
        extract_zip(packed, part, BUNDLE_LIMITS)
        if not root.exists():
            part.rename(root)
        else:
            shutil.copytree(part, root, dirs_exist_ok=True)
            shutil.rmtree(part)


def _fetch_parents(job: JobContext, manifest: BundleManifest, into: Path) -> list[ParentModel]:
    """Copy the models that the training starts from, each into a folder of its id."""
    into.mkdir()
    found = []
    for model_id in manifest.parents:
        job_id, _, number = model_id.rpartition("-")
        path = layout.job(job.org, job_id)
        known = TrainingRecord.model_validate(job.storage.read_json(f"{path}/{TRAINING}"))
        model = next((model for model in known.models if model.number == int(number)), None)
        if model is None:
            raise NotFound(f"parents: there is no model {model_id}.")
        for file in model.files:
            target = into / model_id / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            with job.storage.open(f"{path}/{MODELS}/{file.path}") as stream, target.open("wb") as copy:
                shutil.copyfileobj(stream, copy, _MIB)
        found.append(ParentModel(model_id=model_id, job_id=job_id, sha256=model.sha256))
    return found


def _limits(resources: Resources) -> SandboxLimits:
    disk_bytes = resources.disk_mb * _MIB if resources.disk_mb is not None else None
    return SandboxLimits(
        memory_bytes=resources.memory_mb * _MIB if resources.memory_mb is not None else None,
        cpus=resources.cpus,
        file_bytes=disk_bytes,
        processes=_PROCESSES_MAX,
        folder_bytes=disk_bytes,
    )


def _artifacts(training: TrainingRecord) -> list[Artifact]:
    models = [
        Artifact(path=f"{MODELS}/{file.path}", kind=ArtifactKind.WEIGHTS, title=model.name)
        for model in training.models
        for file in model.files
    ]
    return [*models, Artifact(path=TRAINING, kind=ArtifactKind.REPORT, title="Training record")]


def _summary(training: TrainingRecord) -> str:
    count = len(training.models)
    return f"Trained; {count} {'model' if count == 1 else 'models'}."


def _ended(status: int) -> str:
    if status >= 0:
        return f"with exit code {status}"
    return f"by {signal.Signals(-status).name if -status in signal.valid_signals() else 'a signal'}"

"""From trainings to the words of the dialect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ....schemas.bundles import BundleManifest, TrainedModel, TrainingRecord
from ....schemas.states import JobState
from ...catalog.bundles import Bundle
from ...services.bundles.trainings import Training, model_id

#: Models or jobs of a page.
PAGE_SIZE = 50

_STATUS = {
    JobState.WAITING: "queued",
    JobState.PENDING: "queued",
    JobState.RUNNING: "running",
    JobState.PAUSING: "stopping",
    JobState.CANCELLING: "stopping",
    JobState.PAUSED: "paused",
    JobState.CANCELLED: "killed",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
}


def job_out(training: Training) -> dict[str, Any]:
    job, bundle = training.job, training.bundle
    return {
        "job_id": str(job.id),
        "workspace": bundle.workspace,
        "name": job.name,
        "description": job.description,
        "user": bundle.owner,
        "status": "building" if training.is_building else _STATUS[JobState(job.state)],
        "message": training.view.message,
        "progress": job.fraction,
        "bundle_id": str(bundle.id),
        "created_at": time_out(job.created_at),
        "started_at": time_out(job.started_at) if job.started_at else None,
        "ended_at": time_out(job.ended_at) if job.ended_at else None,
    }


def info_out(
    training: Training, record: TrainingRecord, models: list[TrainedModel], page_id: int, sort_by: str | None
) -> dict[str, Any]:
    first = (page_id - 1) * PAGE_SIZE
    return {
        **job_out(training),
        "parameters": record.parameters or BundleManifest.model_validate(training.bundle.manifest).parameters,
        "metrics": record.metrics,
        "models": [_model_out(training, model) for model in models[first : first + PAGE_SIZE]],
        "model_count": len(models),
        "page_id": page_id,
        "page_count": page_count(len(models)),
        "sort_by": sort_by,
    }


def pipeline_out(bundle: Bundle) -> dict[str, Any]:
    manifest = BundleManifest.model_validate(bundle.manifest)
    made_by = {output: stage.name for stage in manifest.stages for output in stage.outputs}
    return {
        "workspace": bundle.workspace,
        "bundle_id": str(bundle.id),
        "name": manifest.name,
        "description": manifest.description,
        "user": bundle.owner,
        "created_at": time_out(bundle.created_at),
        "stages": [
            {
                **stage.model_dump(mode="json"),
                "after": sorted({made_by[wanted] for wanted in stage.inputs if wanted in made_by}),
            }
            for stage in manifest.stages
        ],
        "parameters": manifest.parameters,
        "metrics": manifest.metrics,
        "requirements": manifest.requirements,
        "resources": manifest.resources.model_dump(mode="json"),
        "parents": manifest.parents,
        "code": bundle.code,
        "data": bundle.data,
    }


def provenance_out(training: Training, record: TrainingRecord, model: TrainedModel) -> dict[str, Any]:
    return {
        "model_id": model_id(training.job.id, model),
        "name": model.name,
        "workspace": training.bundle.workspace,
        "job_id": str(training.job.id),
        "bundle_id": str(training.bundle.id),
        "user": training.bundle.owner,
        "created_at": time_out(model.created_at),
        "sha256": model.sha256,
        "files": [file.model_dump(mode="json") for file in model.files],
        "code": training.bundle.code,
        "data": training.bundle.data,
        "environment": record.environment.model_dump(mode="json") if record.environment is not None else None,
        "parameters": record.parameters,
        "metrics": model.metrics,
        "parents": [parent.model_dump(mode="json") for parent in record.parents],
        "mlflow_run_id": record.mlflow_run_id,
    }


def page_count(total: int) -> int:
    return max(1, -(-total // PAGE_SIZE))


def time_out(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _model_out(training: Training, model: TrainedModel) -> dict[str, Any]:
    return {
        "model_id": model_id(training.job.id, model),
        "name": model.name,
        "step": model.step,
        "metrics": model.metrics,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "files": [file.model_dump(mode="json") for file in model.files],
        "created_at": time_out(model.created_at),
    }

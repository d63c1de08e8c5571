"""Between our words and those of the document."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ....schemas.attempts import Priority
from ....schemas.results import JobResult
from ....schemas.states import JobState
from ...deps import Scope
from ...services.accounts.usage import Use
from ...services.data.data_status import DatasetStatus
from ...services.data.datasets import DatasetView
from ...services.experiments.experiments import ExperimentView
from ...services.experiments.specs import dataset_actions
from ...services.jobs.planning import Limits, NewJob
from ...services.jobs.reasons import JobView
from .schemas import AutomlSettings, DatasetIn, ExperimentIn, JobIn

_STATUS = {
    JobState.WAITING: "Pending",
    JobState.PENDING: "Pending",
    JobState.RUNNING: "Running",
    JobState.PAUSING: "Running",
    JobState.CANCELLING: "Running",
    JobState.PAUSED: "Canceled",
    JobState.CANCELLED: "Canceled",
    JobState.DONE: "Done",
    JobState.FAILED: "Error",
}
#: Words that came with release 5.5.
_STATUS_55 = _STATUS | {
    JobState.PAUSING: "Pausing",
    JobState.CANCELLING: "Canceling",
    JobState.PAUSED: "Paused",
}
_DETAILED = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Pausing": "RUNNING",
    "Canceling": "RUNNING",
    "Paused": "PAUSED",
    "Done": "SUCCESS",
    "Error": "FAILURE",
}

_DATASET_STATUS = {
    DatasetStatus.EMPTY: "starting",
    DatasetStatus.RECEIVING: "in_progress",
    DatasetStatus.READY: "pull_complete",
}
#: What clients of 5.3 wait for.
_DATASET_STATUS_BY_USER = {
    DatasetStatus.EMPTY: "not_present",
    DatasetStatus.RECEIVING: "in_progress",
    DatasetStatus.READY: "present",
}

#: Descriptive fields that are kept as they come.
_DATASET_LABELS = ("logo", "client_url")
_EXPERIMENT_LABELS = (
    "additional_id_info",
    "bundle_url",
    "encryption_key",
    "is_ptm_backbone",
    "logo",
    "model_params",
    "ngc_path",
    "public",
    "read_only",
    "realtime_infer",
    "realtime_infer_request_timeout",
    "sha256_digest",
    "type",
)


def time_out(moment: datetime) -> str:
    """Return a time without a zone, at most 26 characters."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat()


def dataset_values(body: DatasetIn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns and labels of a data set as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    values: dict[str, Any] = {name: given[name] for name in ("name", "description", "version") if name in given}
    labels = {name: given[name] for name in _DATASET_LABELS if name in given}
    if body.cloud_details is not None:
        labels["cloud_details"] = _cloud_details(given["cloud_details"])
    return values, labels


def dataset_out(view: DatasetView, scope: Scope) -> dict[str, Any]:
    row = view.row
    words = _DATASET_STATUS_BY_USER if scope.by_user else _DATASET_STATUS
    return {
        "id": str(row.id),
        "created_on": time_out(row.created_at),
        "last_modified": time_out(row.updated_at),
        "name": row.name,
        "description": row.description,
        "version": row.version,
        "logo": row.labels.get("logo", ""),
        "type": row.type,
        "format": row.format,
        "actions": list(dataset_actions(row.type)),
        "jobs": [job_out(job, scope) for job in view.jobs],
        "status": words[DatasetStatus(row.status)],
        "client_url": row.labels.get("client_url", ""),
        "cloud_details": row.labels.get("cloud_details", {}),
        "docker_env_vars": {},
    }


def experiment_values(body: ExperimentIn) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[Any]]]:
    """Return columns, labels and data sets by role of an experiment as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    columns = ("name", "description", "version", "metric")
    values: dict[str, Any] = {name: given[name] for name in columns if name in given}
    if body.checkpoint_choose_method is not None:
        values["checkpoint"] = body.checkpoint_choose_method
    if body.checkpoint_epoch_number is not None:
        values["checkpoint_epochs"] = body.checkpoint_epoch_number
    if body.base_experiment is not None:
        values["base_experiment_ids"] = [str(i) for i in body.base_experiment]
    sweep = {name: given[name] for name in AutomlSettings.model_fields if name in given}
    sweep |= given.get("automl_settings", {})
    if sweep:
        values["sweep"] = sweep
    labels = {name: given[name] for name in _EXPERIMENT_LABELS if name in given}
    if body.cloud_details is not None:
        labels["cloud_details"] = _cloud_details(given["cloud_details"])
    datasets: dict[str, list[Any]] = {}
    if "train_datasets" in body.model_fields_set:
        datasets["train"] = list(body.train_datasets or [])
    for role in ("eval", "inference", "calibration"):
        name = f"{role}_dataset"
        if name in body.model_fields_set:  # null takes a data set away
            chosen = getattr(body, name)
            datasets[role] = [chosen] if chosen is not None else []
    return values, labels, datasets


def experiment_out(view: ExperimentView, scope: Scope) -> dict[str, Any]:
    row, datasets, network, labels = view.row, view.datasets, view.network, view.row.labels
    sweep = {"automl_enabled": False, **row.sweep}
    return {
        "id": str(row.id),
        "created_on": time_out(row.created_at),
        "last_modified": time_out(row.updated_at),
        "name": row.name,
        "description": row.description,
        "version": row.version,
        "logo": labels.get("logo", ""),
        "type": labels.get("type", "vision"),
        "network_arch": row.network,
        "encryption_key": labels.get("encryption_key", ""),
        "ngc_path": labels.get("ngc_path", ""),
        "additional_id_info": labels.get("additional_id_info", ""),
        "bundle_url": labels.get("bundle_url", ""),
        "dataset_type": network.dataset_type,
        "dataset_formats": list(network.dataset_formats),
        "actions": list(network.actions),
        "license": network.licence,
        "public": labels.get("public", False),
        "read_only": labels.get("read_only", False),
        "is_ptm_backbone": labels.get("is_ptm_backbone", False),
        "train_datasets": [str(i) for i in datasets.train],
        "eval_dataset": _text(datasets.eval),
        "inference_dataset": _text(datasets.inference),
        "calibration_dataset": _text(datasets.calibration),
        "base_experiment": list(row.base_experiment_ids),
        "base_experiment_pull_complete": "pull_complete",
        "checkpoint_choose_method": row.checkpoint,
        "checkpoint_epoch_number": row.checkpoint_epochs,
        "metric": row.metric,
        "automl_settings": sweep,
        **(sweep if scope.by_user else {}),
        "model_params": labels.get("model_params", {}),
        "sha256_digest": labels.get("sha256_digest", {}),
        "realtime_infer": labels.get("realtime_infer", False),
        "realtime_infer_request_timeout": labels.get("realtime_infer_request_timeout", 60),
        "realtime_infer_support": False,
        "spec_file_present": True,
        "cloud_details": labels.get("cloud_details", {}),
        "docker_env_vars": {},
        "jobs": [job_out(job, scope) for job in view.jobs],
    }


def jobs_asked(body: JobIn) -> list[NewJob]:
    """Return the jobs that a body asks for, in order."""
    several = body.actions is not None
    actions: list[str] = [*(body.actions or ()), *([body.action] if body.action is not None else ())]
    return [
        NewJob(
            action=action,
            parent_id=body.parent_job_id,
            spec=(body.specs or {}).get(action) if several else body.specs,
            name=body.name or "",
            description=body.description or "",
            num_gpu=body.num_gpu,
            platform=body.platform,
            priority=Priority[body.priority.upper()] if body.priority else Priority.NORMAL,
            limits=Limits(
                max_attempts=body.max_attempts,
                max_run_s=body.max_run_time,
                max_pending_s=body.max_pending_time,
                expires_at=body.expires_at,
            ),
        )
        for action in actions
    ]


def job_out(view: JobView, scope: Scope) -> dict[str, Any]:
    job = view.row
    words = _STATUS_55 if speaks_55(scope) else _STATUS
    status = words[JobState(job.state)]
    stats = {"file_size": job.tar_size_bytes, "sha256_digest": job.tar_sha256} if job.tar_size_bytes else {}
    owner = {"experiment_id": _text(job.experiment_id)} if job.experiment_id else {"dataset_id": _text(job.dataset_id)}
    extra = {
        "num_gpu": job.num_gpu,
        "platform": job.platform,
        "priority": Priority(job.priority).name.lower() if job.priority != Priority.NORMAL else None,
        "max_attempts": job.max_attempts,
        "max_run_time": job.max_run_s,
        "max_pending_time": job.max_pending_s,
        "expires_at": time_out(job.expires_at) if job.expires_at is not None else None,
        "usage": use_out(view.use, view.currency, job.size_bytes) if view.use is not None else None,
    }
    return {
        "id": str(job.id),
        "parent_id": _text(job.parent_id),
        "action": job.action,
        "created_on": time_out(job.created_at),
        "last_modified": time_out(job.updated_at),
        "status": status,
        "result": _result_out(view, status),
        "specs": job.spec,
        "job_tar_stats": stats,
        "name": job.name,
        "description": job.description,
        **{name: value for name, value in extra.items() if value is not None},
        **owner,
    }


def use_out(use: Use, currency: str, storage_bytes: int | None = None) -> dict[str, Any]:
    return {
        "attempts": use.attempts,
        "run_hours": round(use.seconds / 3600, 6),
        "cpu_hours": round(use.cpu_seconds / 3600, 6),
        "gpu_hours": round(use.gpu_seconds / 3600, 6),
        "cost": round(use.cost, 6),
        "currency": currency,
        **({"storage_bytes": storage_bytes} if storage_bytes is not None else {}),
    }


def speaks_55(scope: Scope) -> bool:
    """Tell whether the client knows the words and answers that came with release 5.5."""
    return scope.caller.release >= (5, 5)


def _result_out(view: JobView, status: str) -> dict[str, Any]:
    job, message = view.row, view.message
    moment = time_out(job.progress_at or job.state_at)
    out: dict[str, Any] = {
        "detailed_status": {
            "date": moment[:10],
            "time": moment[11:19],
            "message": message,
            "status": _DETAILED.get(status, "CANCELED"),
        },
        "message": message,
    }
    if job.history:
        last = job.history[-1]
        seconds = [epoch["seconds"] for epoch in job.history]
        out |= {
            "epoch": last["epoch"],
            "max_epoch": last["max_epoch"],
            "time_per_epoch": _duration(sum(seconds) / len(seconds)),
            "graphical": _curves(job.history),
        }
    if job.eta_s is not None:
        out["eta"] = _duration(job.eta_s)
    if job.result is not None:
        out |= _kpi_out(JobResult.model_validate(job.result))
    return out


def _kpi_out(result: JobResult) -> dict[str, Any]:
    epoch = str(result.best_epoch or result.latest_epoch or 1)
    out: dict[str, Any] = {
        "kpi": [{"metric": name[:100], "values": {epoch: _number(value)}} for name, value in result.kpi.items()],
        "categorical": [
            {
                "metric": metric[:100],
                "category_wise_values": [
                    {"category": name[:500], "value": _number(value)} for name, value in by_class.items()
                ],
            }
            for metric, by_class in result.categorical.items()
        ],
    }
    if result.key_metric is not None and result.key_metric in result.kpi:
        out["key_metric"] = _number(result.kpi[result.key_metric])
    stats = {
        "parameters": result.parameter_count,
        "model_size_bytes": result.model.size_bytes if result.model is not None else None,
    }
    out["stats"] = [{"metric": name, "value": str(value)} for name, value in stats.items() if value is not None]
    return out


def _curves(history: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of the epochs, one curve for each."""
    curves: dict[str, dict[str, float | None]] = {}
    for epoch in history:
        for metric, value in epoch["metrics"].items():
            curves.setdefault(metric, {})[str(epoch["epoch"])] = _number(value)
    out = []
    for metric, values in curves.items():
        known = [value for value in values.values() if value is not None]
        epochs = [int(number) for number in values]
        out.append(
            {
                "metric": metric[:100],
                "values": values,
                "x_min": min(epochs),
                "x_max": max(epochs),
                "y_min": min(known, default=None),
                "y_max": max(known, default=None),
                "units": "",
            }
        )
    return out


def _cloud_details(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return where data lie in a cloud, without the credentials that come along."""
    return {name: given[name] for name in ("cloud_file_type", "cloud_type") if name in given}


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(max(0.0, seconds), 60)
    return f"{int(minutes // 60)}:{int(minutes % 60):02}:{rest:05.2f}"


def _text(value: object) -> str | None:
    return None if value is None else str(value)

"""Between our words and those of the document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....schemas.attempts import Priority
from ....schemas.base_experiments import WEIGHTS_FILE, BaseExperiment
from ....schemas.errors import InvalidInput
from ....schemas.states import JobState
from ...catalog.clouds import Workspace
from ...deps import Scope
from ...services.accounts.usage import Use
from ...services.data.data_status import DatasetStatus
from ...services.data.datasets import DatasetView
from ...services.data.pull_states import PullState
from ...services.data.sources import Source
from ...services.experiments.experiments import ExperimentView
from ...services.experiments.specs import dataset_actions, find_network
from ...services.experiments.sweeps import shown
from ...services.jobs.planning import Limits, NewJob
from ...services.jobs.reasons import JobView
from ...services.jobs.sweeps import SweepDetails
from ...services.jobs.variables import HIDDEN
from ..tao_results import number_out, result_out, time_out
from .schemas import AutomlSettings, DatasetIn, ExperimentIn, JobIn, OwnAutomlSettings, WorkspaceIn

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
_DATASET_LABELS = ("logo", "use_for")
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
#: Settings of a search that answers print as text.
_LISTS = ("automl_add_hyperparameters", "automl_remove_hyperparameters")
#: Fields of base experiments that are told of models of other makers; nothing here has them.
_NOT_KNOWN = {"backbone_class": "", "backbone_type": "", "domain": "", "task": ""}


def dataset_values(body: DatasetIn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns and labels of a data set as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    values: dict[str, Any] = {name: given[name] for name in ("name", "description", "version") if name in given}
    labels = {name: given[name] for name in _DATASET_LABELS if name in given}
    return values, labels


def dataset_source(body: DatasetIn) -> Source | None:
    """Return where the files are fetched from, None when they are uploaded.

    Raises:
        InvalidInput: two places at once, or a path without a place.
    """
    found: list[Source] = []
    for name in ("pull", "client_url"):
        if url := getattr(body, name):
            found.append(Source(url=url, labels={"field": name}))
    cloud = body.cloud_details
    if cloud is not None and cloud.cloud_specific_details:
        if cloud.cloud_type is None:
            raise InvalidInput("cloud_details.cloud_type: it is required.")
        details = dict(cloud.cloud_specific_details)
        path = cloud.cloud_file_path or details.pop("cloud_file_path", None) or body.cloud_file_path or ""
        if not isinstance(path, str):
            raise InvalidInput("cloud_details.cloud_specific_details.cloud_file_path: it is no text.")
        found.append(Source(cloud_type=cloud.cloud_type, details=details, path=path, file_type=cloud.cloud_file_type))
    if body.workspace is not None:
        found.append(Source(workspace_id=body.workspace, path=body.cloud_file_path or ""))
    elif body.cloud_file_path is not None and not found:
        raise InvalidInput("cloud_file_path: it goes with a workspace or with cloud_details.")
    if len(found) > 1:
        raise InvalidInput(
            "The files can come from one place only.", hint="Give one of pull, client_url, cloud_details, workspace."
        )
    return found[0] if found else None


def dataset_out(view: DatasetView, scope: Scope) -> dict[str, Any]:
    row, pull = view.row, view.pull
    source = pull.source if pull is not None else {}
    addresses = {source.get("labels", {}).get("field"): source.get("url")}
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
        "actions": list(dataset_actions(row)),
        "jobs": [job_out(job, scope) for job in view.jobs],
        "status": dataset_status(view, scope),
        **({"message": pull.message} if pull is not None and pull.message else {}),
        "pull": addresses.get("pull") or "",
        "client_url": addresses.get("client_url") or "",
        "cloud_details": _cloud_out(source),
        "cloud_file_path": source.get("path", ""),
        "workspace": _text(pull.workspace_id) if pull is not None else None,
        "use_for": row.labels.get("use_for", []),
        "docker_env_vars": dict.fromkeys(view.variables, HIDDEN),
    }


def dataset_status(view: DatasetView, scope: Scope) -> str:
    words = _DATASET_STATUS_BY_USER if scope.by_user else _DATASET_STATUS
    status = DatasetStatus(view.row.status)
    if view.pull is not None:
        if status is DatasetStatus.EMPTY:
            return "invalid_pull" if view.pull.state == PullState.FAILED else "in_progress"
        if status is DatasetStatus.RECEIVING and view.pull.state == PullState.WAITING:
            return "starting"
    return words[status]


def _cloud_out(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return where data lie in a cloud, without what opens it."""
    if not source.get("cloud_type"):
        return {}
    file_type = source.get("file_type")
    return {
        "cloud_type": source["cloud_type"],
        **({"cloud_file_type": file_type} if file_type else {}),
        "cloud_specific_details": source.get("details", {}),
    }


def workspace_values(body: WorkspaceIn) -> dict[str, Any]:
    """Return the columns of a workspace as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    return {name: given[name] for name in ("name", "description", "version") if name in given}


def workspace_out(row: Workspace) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "created_on": time_out(row.created_at),
        "last_modified": time_out(row.updated_at),
        "name": row.name,
        "description": row.description,
        "version": row.version,
        "cloud_type": row.cloud_type,
        "cloud_specific_details": row.details,
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
    if sweep := {**sweep_values(body), **(sweep_values(body.automl_settings) if body.automl_settings else {})}:
        values["sweep"] = sweep
    labels = {name: given[name] for name in _EXPERIMENT_LABELS if name in given}
    if body.cloud_details is not None:
        kept = ("cloud_file_type", "cloud_type")
        labels["cloud_details"] = {
            name: given["cloud_details"][name] for name in kept if name in given["cloud_details"]
        }
    if body.workspace is not None:
        labels["workspace"] = str(body.workspace)
    datasets: dict[str, list[Any]] = {}
    if "train_datasets" in body.model_fields_set:
        datasets["train"] = list(body.train_datasets or [])
    for role in ("eval", "inference", "calibration"):
        name = f"{role}_dataset"
        if name in body.model_fields_set:  # null takes a data set away
            chosen = getattr(body, name)
            datasets[role] = [chosen] if chosen is not None else []
    return values, labels, datasets


def sweep_values(body: AutomlSettings) -> dict[str, Any]:
    """Return the settings of a search as far as a body sets them; None takes away one that the documents lack."""
    given = body.model_dump(mode="json", include=set(AutomlSettings.model_fields), exclude_none=True)
    lists = {name: json.dumps(value) for name, value in given.items() if name in _LISTS and not isinstance(value, str)}
    taken = {name: None for name in OwnAutomlSettings.model_fields if name in body.model_fields_set - given.keys()}
    return given | lists | taken


def experiment_out(view: ExperimentView, scope: Scope) -> dict[str, Any]:
    row, datasets, network, labels = view.row, view.datasets, view.network, view.row.labels
    sweep = shown(row.sweep)
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
        "workspace": labels.get("workspace"),
        "docker_env_vars": dict.fromkeys(view.variables, HIDDEN),
        **_NOT_KNOWN,
        "jobs": [job_out(job, scope) for job in view.jobs],
    }


def base_out(base: BaseExperiment, scope: Scope) -> dict[str, Any]:
    """Return pretrained weights as an experiment. Clients know them by the `encryption_key` that they do not have."""
    network = find_network(base.network)
    sweep = shown({})
    return {
        "id": str(base.id),
        "created_on": time_out(base.created_at),
        "last_modified": time_out(base.created_at),
        "name": base.name,
        "description": base.description,
        "version": base.version,
        "logo": "",
        "type": "vision",
        "network_arch": base.network,
        "ngc_path": base.path,
        "additional_id_info": "",
        "bundle_url": "",
        "dataset_type": network.dataset_type,
        "dataset_formats": list(network.dataset_formats),
        "actions": [],
        "license": base.licence,
        "public": True,
        "read_only": True,
        "is_ptm_backbone": base.is_backbone,
        "train_datasets": [],
        "eval_dataset": None,
        "inference_dataset": None,
        "calibration_dataset": None,
        "base_experiment": [],
        "base_experiment_pull_complete": "pull_complete",
        "checkpoint_choose_method": "best_model",
        "checkpoint_epoch_number": {},
        "metric": network.key_metric,
        "automl_settings": sweep,
        **(sweep if scope.by_user else {}),
        "model_params": {},
        "sha256_digest": {WEIGHTS_FILE: base.sha256},
        "realtime_infer": False,
        "realtime_infer_request_timeout": 60,
        "realtime_infer_support": False,
        "spec_file_present": False,
        "cloud_details": {},
        "workspace": None,
        "docker_env_vars": {},
        **_NOT_KNOWN,
        "jobs": [],
    }


def listed_out(view: ExperimentView | BaseExperiment, scope: Scope) -> dict[str, Any]:
    return base_out(view, scope) if isinstance(view, BaseExperiment) else experiment_out(view, scope)


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
    status = _words(scope)[JobState(job.state)]
    stats = {"file_size": job.tar_size_bytes, "sha256_digest": job.tar_sha256} if job.tar_size_bytes else {}
    owner: dict[str, Any] = {"dataset_id": _text(job.dataset_id)}
    if job.experiment_id:
        owner = {"experiment_id": _text(job.experiment_id), "sync": False}
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
        "result": result_out(view, status),
        "specs": job.spec,
        "job_tar_stats": stats,
        "name": job.name,
        "description": job.description,
        **{name: value for name, value in extra.items() if value is not None},
        **owner,
    }


def automl_out(details: SweepDetails, scope: Scope) -> dict[str, Any]:
    progress = details.progress
    told = progress.model_dump() if progress is not None else {}
    brackets: dict[int, dict[str, list[int]]] = {}
    for trial in details.trials:
        if trial.bracket is not None:
            brackets.setdefault(trial.bracket, {}).setdefault(str(trial.rung or 0), []).append(trial.id)
    return {
        "job_id": str(details.job.id),
        "status": _words(scope)[JobState(details.job.state)],
        **{name: told.get(name) for name in ("algorithm", "metric", "maximize", "best_trial", "current_trial")},
        **{name: number_out(told.get(name)) for name in ("best", "seconds_per_epoch", "eta_s")},
        "epochs_left": told.get("epochs_left"),
        "trials_by_status": told.get("trials", {}),
        "trials": [
            {
                **trial.model_dump(mode="json"),
                "result": number_out(trial.result),
                "results": {name: number_out(value) for name, value in trial.results.items()},
                "best": trial.id == told.get("best_trial"),
            }
            for trial in details.trials
        ],
        "brackets": [{"bracket": number, "rungs": rungs} for number, rungs in sorted(brackets.items())],
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


def _words(scope: Scope) -> Mapping[JobState, str]:
    return _STATUS_55 if speaks_55(scope) else _STATUS


def _text(value: object) -> str | None:
    return None if value is None else str(value)

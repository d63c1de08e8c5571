"""Between our words and those of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ....schemas.actions import Action
from ....schemas.base_experiments import BaseExperiment
from ....schemas.states import JobState
from ...deps import Scope
from ...services.data.datasets import DatasetView
from ...services.data.sources import Source
from ...services.experiments.experiments import ExperimentView
from ...services.experiments.specs import dataset_actions, find_network
from ...services.experiments.sweeps import shown
from ...services.jobs.planning import Owner
from ...services.jobs.reasons import JobView
from ..tao_results import result_out, time_out
from ..tao_v5.translate import dataset_status, sweep_values
from .schemas import DatasetIn, ModelIn

_STATUS = {
    JobState.WAITING: "Pending",
    JobState.PENDING: "Pending",
    JobState.RUNNING: "Running",
    JobState.PAUSING: "Running",
    JobState.CANCELLING: "Running",
    JobState.PAUSED: "Error",
    JobState.CANCELLED: "Error",
    JobState.DONE: "Done",
    JobState.FAILED: "Error",
}
#: Words of release 4.0 that have others since 5.0. Both are understood; which is answered depends on the key.
_NETWORKS_50 = {"classification": "classification_tf1"}
_MODEL_ACTIONS_40 = {"convert": Action.GEN_TRT_ENGINE}

#: Descriptive fields that are kept as they come.
_MODEL_LABELS = ("additional_id_info", "encryption_key", "logo", "ngc_path", "public", "read_only")


def speaks_40(scope: Scope) -> bool:
    """Tell whether the client is of release 4.0, whose forms are those of the document."""
    return scope.caller.release < (5, 0)


def network_out(network: str, scope: Scope) -> str:
    return network if speaks_40(scope) else _NETWORKS_50.get(network, network)


def action_in(word: str, owner: Owner) -> str:
    """Return an action; `convert` made the engine of a model in release 4.0."""
    return _MODEL_ACTIONS_40.get(word, word) if owner.experiment_id is not None else word


def model_action_out(action: str, scope: Scope) -> str:
    return _old_word(_MODEL_ACTIONS_40, action) if speaks_40(scope) else action


def dataset_values(body: DatasetIn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns and labels of a data set as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    values: dict[str, Any] = {name: given[name] for name in ("name", "description", "version") if name in given}
    return values, {"logo": given["logo"]} if "logo" in given else {}


def dataset_source(body: DatasetIn) -> Source | None:
    """Return where the files are fetched from, None when they are uploaded."""
    return Source(url=body.pull, labels={"field": "pull"}) if body.pull else None


def dataset_out(view: DatasetView, scope: Scope) -> dict[str, Any]:
    row, pull = view.row, view.pull
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
        **({"pull": pull.source.get("url"), "message": pull.message} if pull is not None else {}),
    }


def model_values(body: ModelIn) -> tuple[dict[str, Any], dict[str, Any], dict[str, list[UUID]]]:
    """Return columns, labels and data sets by role of an experiment as far as the body sets them."""
    given = body.model_dump(exclude_none=True)
    values: dict[str, Any] = {
        name: given[name] for name in ("name", "description", "version", "metric") if name in given
    }
    if body.checkpoint_choose_method is not None:
        values["checkpoint"] = body.checkpoint_choose_method
    if body.checkpoint_epoch_number is not None:
        values["checkpoint_epochs"] = body.checkpoint_epoch_number
    if "ptm" in body.model_fields_set:  # null and an empty text take it away
        chosen = body.ptm if isinstance(body.ptm, list) else [body.ptm] if isinstance(body.ptm, UUID) else []
        values["base_experiment_ids"] = [str(i) for i in chosen]
    if sweep := sweep_values(body):
        values["sweep"] = sweep
    labels = {name: given[name] for name in _MODEL_LABELS if name in given}
    datasets: dict[str, list[UUID]] = {}
    if "train_datasets" in body.model_fields_set:
        datasets["train"] = list(body.train_datasets or [])
    for role in ("eval", "inference", "calibration"):
        name = f"{role}_dataset"
        if name in body.model_fields_set:
            wanted = getattr(body, name)
            datasets[role] = [wanted] if wanted is not None else []
    return values, labels, datasets


def model_out(view: ExperimentView | BaseExperiment, scope: Scope) -> dict[str, Any]:
    if isinstance(view, BaseExperiment):
        return _pretrained_out(view, scope)
    row, datasets, network, labels = view.row, view.datasets, view.network, view.row.labels
    bases = list(row.base_experiment_ids)
    return {
        "id": str(row.id),
        "created_on": time_out(row.created_at),
        "last_modified": time_out(row.updated_at),
        "name": row.name,
        "description": row.description,
        "version": row.version,
        "logo": labels.get("logo", ""),
        "ngc_path": labels.get("ngc_path", ""),
        "additional_id_info": labels.get("additional_id_info", ""),
        "encryption_key": labels.get("encryption_key", ""),
        "network_arch": network_out(row.network, scope),
        "ptm": next(iter(bases), "") if speaks_40(scope) else bases,
        "dataset_type": network.dataset_type,
        "eval_dataset": _text(datasets.eval),
        "inference_dataset": _text(datasets.inference),
        "calibration_dataset": _text(datasets.calibration),
        "train_datasets": [str(i) for i in datasets.train],
        "read_only": labels.get("read_only", False),
        "public": labels.get("public", False),
        "actions": [model_action_out(action, scope) for action in network.actions],
        "jobs": [job_out(job, scope) for job in view.jobs],
        **shown(row.sweep),
        "metric": row.metric,
        "checkpoint_choose_method": row.checkpoint,
        "checkpoint_epoch_number": row.checkpoint_epochs,
    }


def _pretrained_out(base: BaseExperiment, scope: Scope) -> dict[str, Any]:
    network = find_network(base.network)
    return {
        "id": str(base.id),
        "created_on": time_out(base.created_at),
        "last_modified": time_out(base.created_at),
        "name": base.name,
        "description": base.description,
        "version": base.version,
        "logo": "",
        "ngc_path": base.path,
        "additional_id_info": "",
        "network_arch": network_out(base.network, scope),
        "ptm": "" if speaks_40(scope) else [],
        "dataset_type": network.dataset_type,
        "eval_dataset": None,
        "inference_dataset": None,
        "calibration_dataset": None,
        "train_datasets": [],
        "read_only": True,
        "public": True,
        "actions": [],
        "jobs": [],
        **shown({}),
        "metric": network.key_metric,
    }


def job_out(view: JobView, scope: Scope) -> dict[str, Any]:
    job = view.row
    status = _STATUS[JobState(job.state)]
    stats = {"file_size": job.tar_size_bytes, "sha256_digest": job.tar_sha256} if job.tar_size_bytes else {}
    return {
        "id": str(job.id),
        "parent_id": _text(job.parent_id),
        "created_on": time_out(job.created_at),
        "last_modified": time_out(job.updated_at),
        "action": model_action_out(job.action, scope) if job.experiment_id is not None else job.action,
        "status": status,
        "result": _result_out(view, status, scope),
        "specs": job.spec,
        "job_tar_stats": stats,
    }


def _result_out(view: JobView, status: str, scope: Scope) -> dict[str, Any]:
    out = {"graphical": [], "categorical": [], "kpi": [], "stats": [], **result_out(view, status)}
    for kpi in out["kpi"]:
        kpi["value"] = next(iter(kpi["values"].values()), None)
    if "epoch" in out:
        out["cur_epoch"] = out["epoch"]
    if speaks_40(scope):
        for curve in out["graphical"]:
            curve["values"] = list(curve["values"].values())
    return out


def _old_word(words: Mapping[str, str], new: str) -> str:
    return next((old for old, word in words.items() if word == new), new)


def _text(value: object) -> str | None:
    return None if value is None else str(value)

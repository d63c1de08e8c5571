"""Sweeps as tests see them: there is no controller, tests do what it would."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from facade_support import Member
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.sweeps import CONTROLLER_FILE, SweepProgress, TrialRecord

NETWORK = "classification_pyt"
RATE = "train.train_config.optimizer.lr"
DECAY = "train.train_config.optimizer.weight_decay"


def searching(member: Member, **settings: Any) -> str:
    """Return the path of an experiment whose train jobs are sweeps."""
    owner = f"experiments/{member.ready()}"
    configure(member, owner, automl_enabled=True, **settings)
    return owner


def configure(member: Member, owner: str, **settings: Any) -> None:
    changed = member.client.patch(owner, content=json.dumps({"automl_settings": settings}))
    assert changed.status_code == 200, changed.text


def start_running(member: Member, owner: str, **fields: Any) -> str:
    job_id = member.start(owner, "train", **fields)
    member.facade.prefect.move(job_id, "RUNNING")
    member.wait(owner, job_id, "Running")
    return job_id


def start_trial(member: Member, sweep_id: str, number: int, state: str = "RUNNING", name: str | None = None) -> str:
    """Start a trial as a controller does, and bring it into a state."""
    prefect = member.facade.prefect
    deployment = prefect.client.get(f"deployments/name/trial/{NETWORK}").json()
    owner = prefect.run(sweep_id)["parameters"]["experiment_id"]
    parameters = {
        "org": member.org,
        "sweep_job_id": sweep_id,
        "number": number,
        "until_epoch": 1,
        "max_epochs": 3,
        "experiment_id": owner,
        "network": NETWORK,
    }
    tags = [
        *(f"trainyard.sweep:{sweep_id}", f"trainyard.trial:{number}", f"trainyard.org:{member.org}"),
        *(f"trainyard.network:{NETWORK}", f"trainyard.experiment:{owner}"),
    ]
    made = prefect.client.post(
        f"deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters, "tags": tags}
    )
    made.raise_for_status()
    trial_id = str(made.json()["id"])
    if state != "SCHEDULED":
        prefect.move(trial_id, "RUNNING")
    if state not in ("SCHEDULED", "RUNNING"):
        prefect.move(trial_id, state, name)
    return trial_id


def state_of(member: Member, run_id: str) -> tuple[str, str]:
    state = member.facade.prefect.run(run_id)["state"]
    return state["type"], state["name"]


def progress(**fields: Any) -> dict[str, Any]:
    """Return what a sweep says of itself."""
    told = {"algorithm": "bayesian", "metric": "accuracy_top-1", "maximize": True, **fields}
    return SweepProgress.model_validate(told).model_dump(mode="json")


def write_status(member: Member, sweep_id: str, **fields: Any) -> None:
    """Leave a report in the status file that no event has brought."""
    line = {"job_id": sweep_id, "at": datetime.now(UTC).isoformat(), "fraction": 1.0, "sweep": progress(**fields)}
    path = f"{layout.job(member.org, sweep_id)}/status.json"
    member.facade.storage.append_text(path, json.dumps(line) + "\n")


def write_trials(member: Member, sweep_id: str, *trials: dict[str, Any]) -> None:
    records = [TrialRecord.model_validate(trial).model_dump(mode="json") for trial in trials]
    member.facade.storage.write_json(f"{layout.job(member.org, sweep_id)}/{CONTROLLER_FILE}", records)

"""A training job that is told to end, as workers tell it: SIGTERM to the process, then the job again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import prefect.settings
import pytest
from prefect_trainyard.schemas.results import JobResult
from safetensors.torch import load_file
from support import QUICK_TRAIN, poll

SCRIPT = """
import json, sys
from prefect import flow
from prefect_trainyard.blocks import load_storage
from prefect_trainyard.tasks import train
from prefect_trainyard.tasks.context import JobContext, running_as

@flow
def job():
    with running_as(JobContext(org="acme", job_id=sys.argv[1], experiment="acme/stops", storage=load_storage())):
        train(sys.argv[2], sys.argv[3], network="classification_pyt", spec=json.loads(sys.argv[4]))

job()
"""

EPOCHS = 8
SPEC = {
    **QUICK_TRAIN,
    "train": {
        "exp_config": {"deterministic": True},
        # Saves only when it has to: what a stop saves would otherwise be there anyway.
        "train_config": {"runner": {"max_epochs": EPOCHS}, "checkpoint_config": {"interval": 1000}},
    },
}


@pytest.fixture(autouse=True)
def _local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{tmp_path}/storage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ARTIFACT_ROOT", str(tmp_path / "mlruns"))
    monkeypatch.setenv("TRAINYARD_STOP_GRACE_S", "60")
    monkeypatch.setenv("PREFECT_API_URL", str(prefect.settings.PREFECT_API_URL.value()))


def start(tmp_path: Path, digits: Path, job_id: str) -> subprocess.Popen[bytes]:
    arguments = [job_id, str(digits / "train"), str(digits / "eval"), json.dumps(SPEC)]
    return subprocess.Popen([sys.executable, "-P", "-c", SCRIPT, *arguments], cwd=tmp_path)


def reports(folder: Path) -> list[dict[str, object]]:
    status = folder / "status.json"
    return [json.loads(line) for line in status.read_text().splitlines()] if status.exists() else []


def epochs(folder: Path) -> int:
    return sum(report["epoch"] is not None for report in reports(folder))


@pytest.mark.long
def test_a_stopped_job_saves_and_goes_on_as_if_nothing_had_been(tmp_path: Path, digits: Path) -> None:
    assert start(tmp_path, digits, "whole").wait() == 0
    folder = tmp_path / "storage/acme/jobs/stopped"

    process = start(tmp_path, digits, "stopped")
    for number in (1, 3):
        poll(lambda number=number: epochs(folder) >= number, f"epoch {number}", every_s=0.002)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
        assert not (folder / "result.json").exists()
        client = mlflow.MlflowClient()
        run_id = json.loads((folder / "mlflow_run.json").read_text())["run_id"]
        assert client.get_run(run_id).info.status == "KILLED"
        (manifest,) = (folder / "train").glob("checkpoint_*.json")
        steps = json.loads(manifest.read_text())["step"]
        assert steps >= 17 * epochs(folder)
        process = start(tmp_path, digits, "stopped")
    assert process.wait() == 0

    whole, stopped = (
        JobResult.model_validate_json((tmp_path / f"storage/acme/jobs/{name}/result.json").read_text())
        for name in ("whole", "stopped")
    )
    assert stopped.mlflow_run_id == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [(e.epoch, e.metrics) for e in stopped.history] == [(e.epoch, e.metrics) for e in whole.history]
    assert stopped.kpi == whole.kpi
    for name in whole.history[0].metrics:
        measured = client.get_metric_history(run_id, name)
        assert sorted(m.step for m in measured) == list(range(1, EPOCHS + 1))
    assert whole.model is not None
    assert stopped.model is not None
    files = [load_file(tmp_path / f"storage/acme/jobs/{n}" / whole.model.path) for n in ("whole", "stopped")]
    assert all(files[0][name].equal(files[1][name]) for name in files[0])
    # why: an epoch was told of once; nothing was trained twice.
    assert epochs(folder) == EPOCHS


@pytest.mark.long
def test_a_killed_job_has_every_epoch_once_in_mlflow(tmp_path: Path, digits: Path) -> None:
    folder = tmp_path / "storage/acme/jobs/killed"
    process = start(tmp_path, digits, "killed")
    poll(lambda: epochs(folder) >= 4, "epoch 4", every_s=0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert start(tmp_path, digits, "killed").wait() == 0
    result = JobResult.model_validate_json((folder / "result.json").read_text())
    assert [e.epoch for e in result.history] == list(range(1, EPOCHS + 1))
    client = mlflow.MlflowClient()
    assert result.mlflow_run_id is not None
    for name, value in result.history[-1].metrics.items():
        measured = {m.step: m.value for m in client.get_metric_history(result.mlflow_run_id, name)}
        assert len(client.get_metric_history(result.mlflow_run_id, name)) == EPOCHS
        assert measured[EPOCHS] == pytest.approx(value)

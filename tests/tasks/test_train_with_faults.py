"""A training whose storage and MLflow have faults: it goes on, and nothing is missing afterwards."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from faulty_proxy import Fault, faulty_proxy
from prefect import flow
from prefect_trainyard.blocks import ArtifactStorage, load_storage
from prefect_trainyard.deployments.home import free_port
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.tasks import train
from prefect_trainyard.tasks.context import JobContext, running_as, sha256_of
from support import QUICK_TRAIN, poll

EPOCHS = 12


def spec(**checkpoint: Any) -> dict[str, Any]:
    runner = {"runner": {"max_epochs": EPOCHS}, "checkpoint_config": checkpoint}
    return {**QUICK_TRAIN, "train": {"train_config": runner}}


@flow
def job(train_folder: str, eval_folder: str, options: dict[str, Any], storage: ArtifactStorage) -> JobResult:
    with running_as(JobContext(org="acme", job_id="1", experiment="acme/faults", storage=storage)):
        return train(train_folder, eval_folder, network="classification_pyt", spec=options)


@pytest.fixture(autouse=True)
def _local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{tmp_path}/storage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


@pytest.mark.long
def test_a_storage_with_faults(digits: Path, tmp_path: Path, s3_storage: ArtifactStorage, s3_url: str) -> None:
    chance = random.Random(5)

    def one_in_four(method: str, path: str) -> Fault | None:
        fault = chance.choice(["500", "503", "away", *(["cut", "short"] if method == "GET" else [])])
        return fault if chance.random() < 0.25 else None

    with faulty_proxy(s3_url) as proxy:
        proxy.choose = one_in_four
        faulty = s3_storage.model_copy(update={"endpoint_url": proxy.url}).patient(60)
        result = job(str(digits / "train"), str(digits / "eval"), spec(interval=1), faulty)
        assert sum(proxy.made.values()) > 10
    stored = {file.path: file.size_bytes for file in s3_storage.list_files("acme/jobs/1")}
    assert JobResult.model_validate(s3_storage.read_json("acme/jobs/1/result.json")) == result
    assert {f"train/model_epoch_{epoch:03d}.safetensors" for epoch in range(1, EPOCHS + 1)} <= stored.keys()
    s3_storage.download_folder("acme/jobs/1", tmp_path / "down")
    for artifact in result.artifacts:
        assert stored[artifact.path] == artifact.size_bytes
        assert sha256_of(tmp_path / "down" / artifact.path) == artifact.sha256
    assert newest_checkpoint(tmp_path / "down" / "train") is not None
    assert len([name for name in stored if "checkpoint_" in name]) == 2


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    running: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        options = {"port": port, "backend-store-uri": f"sqlite:///{tmp_path}/server.db"}
        options["artifacts-destination"] = tmp_path / "mlartifacts"
        arguments = [f"--{name}={value}" for name, value in options.items()]
        module = "prefect_trainyard.deployments.mlflow_server"
        process = subprocess.Popen([sys.executable, "-P", "-m", module, *arguments], cwd=tmp_path)
        running.append(process)
        return process

    yield url, start
    for process in running:
        process.kill()
        process.wait()


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.long
def test_mlflow_is_away_at_the_start_and_while_training(
    digits: Path,
    tmp_path: Path,
    mlflow_server: tuple[str, Callable[[], subprocess.Popen[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, start = mlflow_server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    status = tmp_path / "storage/acme/jobs/1/status.json"
    seen: list[int] = []

    def epochs() -> int:
        if not status.exists():
            return 0
        return sum(json.loads(line)["epoch"] is not None for line in status.read_text().splitlines())

    def disturb() -> None:
        poll((tmp_path / "storage/acme/jobs/1").exists, "the start of the job")
        server = start()
        poll(lambda: epochs() >= 1, "the first epoch", 120, 0.005)
        server.send_signal(signal.SIGKILL)
        server.wait()
        seen.append(epochs())
        poll(lambda: epochs() == EPOCHS, "the last epoch", 120)
        assert not is_up(url)
        seen.append(epochs())
        start()

    thread = threading.Thread(target=disturb)
    thread.start()
    result = job(str(digits / "train"), str(digits / "eval"), spec(), load_storage())
    thread.join()
    assert seen[0] < seen[1] == EPOCHS
    client = mlflow.MlflowClient(url)
    assert result.mlflow_run_id is not None
    run = client.get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    for name in result.history[0].metrics:
        measured = client.get_metric_history(result.mlflow_run_id, name)
        assert sorted(m.step for m in measured) == list(range(1, EPOCHS + 1))
    assert client.search_logged_models([run.info.experiment_id])
    assert len(client.search_runs([run.info.experiment_id])) == 1

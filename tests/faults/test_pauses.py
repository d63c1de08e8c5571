"""Jobs that are paused again and again, and jobs whose servers are away, on a real yard."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from faults.checks import Violation, check_all
from faults.traffic import Job, Traffic
from faults.watch import Watch
from faults.yard import FaultyYard, Rest, faulty_yard
from safetensors.torch import load_file
from support import poll

#: Long enough that it cannot be done before the last pause.
EPOCHS = 60
EPOCH = re.compile(r" epoch (\d+)/")
AWAY_S = 8.0


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyYard]:
    with faulty_yard(tmp_path_factory.mktemp("pauses"), cpus="2") as yard:
        yield yard


@pytest.fixture
def traffic(yard: FaultyYard) -> Iterator[Traffic]:
    with Watch(yard.home / "work") as watch:
        yield Traffic(yard, watch, Random(1), epochs=EPOCHS)


def start(traffic: Traffic, epochs: int = EPOCHS) -> Job:
    traffic.epochs = epochs
    return traffic.submit("train", exact=True)


def epochs_in_log(yard: FaultyYard, job: Job) -> list[int]:
    return [int(number) for number in EPOCH.findall(yard.log(job.id).read_text())]


def wait_for(rest: Rest, traffic: Traffic, job: Job, *statuses: str, timeout_s: float = 60) -> str:
    def read() -> str | None:
        status = str(rest.get(traffic.path(job))["status"])
        assert status in statuses or status not in ("Done", "Error"), rest.get(traffic.path(job))["result"]
        return status if status in statuses else None

    return poll(read, f"{job.name} to be {statuses}", timeout_s)


def tensors_sha256(file: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        digest.update(name.encode() + str(tensor.dtype).encode() + str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def last_weights(yard: FaultyYard, job: Job, epochs: int) -> str:
    return tensors_sha256(yard.job_folder(job.id) / "train" / f"model_epoch_{epochs:03d}.safetensors")


def mlflow(yard: FaultyYard, what: str, **query: str) -> dict[str, Any]:
    answer = httpx.get(f"{yard.mlflow_url}/api/2.0/mlflow/{what}", params=query, timeout=30)
    return dict(answer.raise_for_status().json())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("release", "verb", "word", "pauses"),
    [("5.5", "pause", "Paused", 10), pytest.param("5.3", "cancel", "Canceled", 3, marks=pytest.mark.long)],
)
def test_pauses_at_random_moments_change_nothing(
    yard: FaultyYard, traffic: Traffic, release: str, verb: str, word: str, pauses: int
) -> None:
    random, rest = Random(release), yard.client(release)
    job = start(traffic)
    folder = yard.job_folder(job.id)
    for pause in range(pauses):
        wait_for(rest, traffic, job, "Running")
        if pause % 3 == 0:
            told = len(epochs_in_log(yard, job))
            poll(lambda told=told: len(epochs_in_log(yard, job)) > told, "another epoch", 60)  # type: ignore[misc]
        time.sleep(random.uniform(0.0, 0.6))
        assert rest.send("POST", f"{traffic.path(job)}:{verb}", {}).status_code == 200
        assert wait_for(rest, traffic, job, word) == word
        poll(lambda: not traffic.watch.running().get(job.id), "the process to be gone", 30)
        yard_run = yard.states([job.id])[job.id]
        assert (yard_run["state"]["type"], yard_run["state"]["name"]) == ("PAUSED", "Suspended")
        assert rest.send("POST", f"{traffic.path(job)}:resume", {}).status_code == 200
    assert wait_for(rest, traffic, job, "Done", timeout_s=180) == "Done"
    assert epochs_in_log(yard, job) == list(range(1, EPOCHS + 1))
    result = json.loads((folder / "result.json").read_text())
    assert json.loads((folder / "mlflow_run.json").read_text())["run_id"] == result["mlflow_run_id"]
    metrics = mlflow(yard, "metrics/get-history", run_id=result["mlflow_run_id"], metric_key="train_loss")["metrics"]
    assert [int(metric["step"]) for metric in metrics] == list(range(1, EPOCHS + 1))
    assert [entry["epoch"] for entry in result["history"]] == list(range(1, EPOCHS + 1))

    twin = start(traffic)
    assert wait_for(rest, traffic, twin, "Done", timeout_s=180) == "Done"
    assert last_weights(yard, job, EPOCHS) == last_weights(yard, twin, EPOCHS)
    assert violations(yard, traffic) == []


def violations(yard: FaultyYard, traffic: Traffic) -> list[Violation]:
    traffic.drain(60)
    return check_all(yard, traffic)


def keep_down(yard: FaultyYard, part: str, seconds: float) -> None:
    """Kill a part, and again whenever its supervisor has started it."""
    end, killed = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        pid = yard.pid(part)
        if pid != killed:
            with contextlib.suppress(ProcessLookupError):  # it is down still, and its supervisor has not looked yet
                os.kill(pid, signal.SIGKILL)
            killed = pid
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("part", "away_s", "epochs"),
    [
        ("mlflow", AWAY_S, EPOCHS),
        ("prefect", AWAY_S, EPOCHS),
        pytest.param("mlflow", 60.0, 600, marks=pytest.mark.long),
        pytest.param("prefect", 60.0, 600, marks=pytest.mark.long),
    ],
)
def test_training_goes_on_while_a_server_is_away_and_nothing_is_missing_afterwards(
    yard: FaultyYard, traffic: Traffic, part: str, away_s: float, epochs: int
) -> None:
    job = start(traffic, epochs)
    poll(lambda: epochs_in_log(yard, job), "the first epoch", 60)
    told = [len(epochs_in_log(yard, job))]
    for _ in range(4):
        keep_down(yard, part, away_s / 4)
        told.append(len(epochs_in_log(yard, job)))
    goes_on = (after > before or after == epochs for before, after in pairwise(told))
    assert all(goes_on) and told[-1] > told[0] + 5, f"the training stood still: {told}"
    yard.wait_until_ready()
    assert wait_for(yard.rest, traffic, job, "Done", timeout_s=240) == "Done"
    assert epochs_in_log(yard, job) == list(range(1, epochs + 1))
    assert violations(yard, traffic) == []

"""The command line and the supervisor, on a yard of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from support import TRAINYARD, poll, trainyard


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a yard that tests may kill parts of."""
    home = tmp_path_factory.mktemp("own") / "home"
    try:
        trainyard("up", "--home", str(home), "--port", "0", "--detach")
        yield home
    finally:
        trainyard("down", "--home", str(home), check=False)


def read_status(home: Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(trainyard("status", "--home", str(home), "--json", check=False).stdout)
    return shown


def test_every_part_answers(home: Path) -> None:
    status = read_status(home)
    assert status["ready"] is True
    assert set(status["parts"]) == {"prefect", "mlflow", "api", "worker-1"}
    assert all(part["healthy"] for part in status["parts"].values())
    assert status["workers"] == ["worker-1"]
    assert httpx.get(f"{status['api_url']}/api/v1/health").status_code == 200
    assert httpx.get(f"{status['prefect_url']}/api/health").status_code == 200
    assert httpx.get(f"{status['mlflow_url']}/health").status_code == 200
    for url in ("api_url", "prefect_url", "mlflow_url"):
        assert status[url].startswith("http://127.0.0.1:")


def test_every_priority_has_a_queue_and_what_has_none_is_in_the_middle(home: Path) -> None:
    prefect = f"{read_status(home)['prefect_url']}/api/work_pools/trainyard"
    queues = httpx.post(f"{prefect}/queues/filter", json={}).json()
    assert {queue["name"]: queue["priority"] for queue in queues} == {"high": 1, "default": 2, "low": 3}
    assert httpx.get(prefect).json()["default_queue_id"] in [q["id"] for q in queues if q["name"] == "default"]


def test_nothing_listens_beyond_loopback(home: Path) -> None:
    for part in read_status(home)["parts"].values():
        process = psutil.Process(part["pid"])
        for connection in [c for p in [process, *process.children(recursive=True)] for c in p.net_connections("tcp")]:
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"


def test_a_second_up_says_so(home: Path) -> None:
    again = trainyard("up", "--home", str(home), "--detach", check=False)
    assert again.returncode == 1
    assert "already up" in again.stderr
    assert read_status(home)["api_url"] in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize("part", ["mlflow", "api", "prefect", "worker-1"])
def test_a_part_that_dies_is_started_again(home: Path, part: str) -> None:
    before = read_status(home)["parts"][part]["pid"]
    os.kill(before, signal.SIGKILL)

    def read() -> bool:
        now = read_status(home)["parts"].get(part, {})
        return bool(now.get("healthy") and now["pid"] != before)

    poll(read, f"a new {part}", timeout_s=60, every_s=0.3)


def test_keys_are_made_listed_and_revoked(home: Path) -> None:
    status = read_status(home)
    made = trainyard("keys", "create", "--home", str(home), "--org", "acme", "--user", "ann")
    key = made.stdout.strip()
    assert made.stdout == f"{key}\n"
    assert made.stderr == ""

    def login() -> int:
        return httpx.post(f"{status['api_url']}/api/v1/login", json={"ngc_api_key": key}, timeout=30).status_code

    poll(lambda: httpx.get(f"{status['api_url']}/api/v1/health", timeout=5).status_code == 200, "the facade")
    assert login() == 201
    listed = trainyard("keys", "list", "--home", str(home)).stdout
    assert "org=acme user=ann release=5.3" in listed
    assert key not in listed
    written = [file for file in home.rglob("*") if file.suffix in (".log", ".db", ".db-wal")]
    assert written
    assert all(key.encode() not in file.read_bytes() for file in written)
    trainyard("keys", "revoke", "--home", str(home), key)
    assert login() == 401
    assert "revoked" in trainyard("keys", "list", "--home", str(home)).stdout


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    wrong = trainyard("up", "--home", str(tmp_path / "x"), "--port", "70000", check=False)
    assert wrong.returncode == 1
    assert "port" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not (tmp_path / "x").exists()


def test_other_addresses_than_loopback_need_a_key(tmp_path: Path) -> None:
    refused = trainyard("up", "--home", str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--detach", check=False)
    assert refused.returncode == 1
    assert "keys create" in refused.stderr


def test_status_of_nothing(tmp_path: Path) -> None:
    shown = trainyard("status", "--home", str(tmp_path), "--json", check=False)
    assert shown.returncode == 3
    assert json.loads(shown.stdout)["up"] is False
    assert trainyard("down", "--home", str(tmp_path)).stdout.startswith("No yard is up")


@pytest.mark.long
def test_a_killed_yard_leaves_nothing_and_comes_up_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRAINYARD_")}
    with (tmp_path / "up.log").open("wb") as log:
        command = [str(TRAINYARD), "up", "--home", str(home), "--port", "0", "--workers", "1"]
        first = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            poll(lambda: (home / "run" / "yard.json").exists() and read_status(home).get("ready"), "the yard", 60)
            pids = [part["pid"] for part in read_status(home)["parts"].values()]
            family = [psutil.Process(pid) for pid in pids]
            family += [child for process in family for child in process.children(recursive=True)]
        finally:
            first.kill()
            first.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
        assert read_status(home)["up"] is False
        try:
            trainyard("up", "--home", str(home), "--port", "0", "--detach")
            assert read_status(home)["ready"] is True
        finally:
            trainyard("down", "--home", str(home), check=False)

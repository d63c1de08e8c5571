from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prefect_trainyard.deployments import prefect_server
from prefect_trainyard.deployments.environment import mlflow_environment
from station import Station, eventually, free_port, start_module


def test_prefect_serves_its_ui_and_asks_nobody_outside(station: Station) -> None:
    url = station.environment["PREFECT_API_URL"]
    page = httpx.get(url.removesuffix("api"), follow_redirects=True, headers={"Accept": "text/html"})
    assert page.is_success
    assert "<html" in page.text.lower()
    settings = httpx.get(f"{url}/admin/settings").json()
    assert settings["server"]["analytics_enabled"] is False


def test_many_writers_at_once_are_all_served(station: Station) -> None:
    """The stock server answers 503 to some of these, for which its clients sleep 2 to 8 s."""
    flow_id = str(station.client.create_flow_from_name("burst"))
    url = f"{station.environment['PREFECT_API_URL']}/flow_runs/"

    def create(number: int) -> int:
        body = {"flow_id": flow_id, "name": f"run-{number}", "state": {"type": "RUNNING"}}
        return client.post(url, json=body).status_code

    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(16) as threads:
        assert set(threads.map(create, range(64))) == {201}


def test_new_home_starts_from_the_migrated_template(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    template, database = tmp_path / "template.db", tmp_path / "home" / "prefect.db"
    with contextlib.closing(sqlite3.connect(template)) as connection:
        connection.execute("CREATE TABLE marked (id INTEGER)")
    monkeypatch.setattr(prefect_server, "template_file", lambda: template)
    monkeypatch.setattr(prefect_server, "database_file", lambda: database)
    prefect_server.prepare_database()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("marked",)]
    assert [path.name for path in database.parent.iterdir()] == ["prefect.db"]


@pytest.fixture
def mlflow_port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    server = start_module(
        "mlflow_server",
        *("--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"),
        *("--artifacts-destination", str(tmp_path / "artifacts")),
        environment={},
        log=tmp_path / "mlflow.log",
    )

    def is_up() -> bool:
        assert server.popen.poll() is None, server.log.read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health").is_success
        except httpx.TransportError:
            return False

    try:
        eventually(is_up)
        yield port
        assert psutil.Process(server.popen.pid).children() == []
    finally:
        server.stop()


def test_mlflow_tracks_and_proxies_artifacts_in_one_process(mlflow_port: int, tmp_path: Path) -> None:
    client_code = (
        "import mlflow; run = mlflow.start_run(); mlflow.log_metric('accuracy', 0.5);"
        "mlflow.log_text('hello', 'note.txt'); print(mlflow.get_artifact_uri(), end='')"
    )
    logged = subprocess.run(
        [sys.executable, "-c", client_code],
        env=os.environ | mlflow_environment(mlflow_port),
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "mlflow-artifacts:/" in logged.stdout
    (note,) = (tmp_path / "artifacts").rglob("note.txt")
    assert note.read_text() == "hello"
    assert "<html" in httpx.get(f"http://127.0.0.1:{mlflow_port}").text.lower()


def test_mlflow_takes_the_data_sets_of_many_jobs_at_once(mlflow_port: int) -> None:
    """Each of these requests holds two database connections; the stock server has 15, and refuses most of them."""
    jobs = 60
    api = f"http://127.0.0.1:{mlflow_port}/api/2.0/mlflow/"
    with httpx.Client(base_url=api, timeout=60, limits=httpx.Limits(max_connections=jobs)) as client:

        def run() -> str:
            return str(client.post("runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"])

        def log_inputs(run_id: str) -> int:
            dataset = {"name": "train", "digest": run_id, "source_type": "test", "source": "{}"}
            body = {"run_id": run_id, "datasets": [{"dataset": dataset}]}
            return client.post("runs/log-inputs", json=body).status_code

        run_ids = [run() for _ in range(jobs)]
        with ThreadPoolExecutor(jobs) as threads:
            assert set(threads.map(log_inputs, run_ids)) == {200}


def test_stock_command_line_starts_the_worker(station: Station) -> None:
    """By the entry point alone: nothing of ours is on its command line but the type.

    SIGINT is ignored, as in whatever a shell script starts in the background.
    """
    ready = station.home / "stock-ready"
    environment = os.environ | station.environment
    environment |= {
        "TRAINYARD_WORKER_PRELOAD": "json",
        "TRAINYARD_WORKER_READY_FILE": str(ready),
        "TRAINYARD_WORKER_SCRATCH": str(station.home / "scratch"),
    }
    command = ["-m", "prefect", "worker", "start", "--type", "trainyard", "--pool", "stock-cli"]
    with (station.home / "stock.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            cwd=station.home,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
    try:
        eventually(lambda: ready.exists() or worker.poll() is not None)
        family = psutil.Process(worker.pid).children(recursive=True)
        station.wait(station.submit("talk", "stock-cli", {"lines": 1}), "Completed")
        pool = station.client.read_work_pool("stock-cli")
        variables = pool.base_job_template["variables"]["properties"]
        assert {"cpus", "gpus", "env"} <= set(variables)
        assert "command" not in variables
        worker.terminate()
        worker.wait(30)
        eventually(lambda: not any(process.is_running() for process in family))
    finally:
        worker.kill()

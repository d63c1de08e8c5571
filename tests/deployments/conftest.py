"""One Prefect server and one worker for all tests of this folder."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect_trainyard.deployments.environment import prefect_environment

# With `--import-mode=importlib` the tests of a folder do not see each other by themselves.
sys.path.insert(0, str(Path(__file__).parent))
from station import Process, Station, eventually, free_port, start_module


@pytest.fixture(scope="package")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """One server for all: it takes 3 s to start."""
    home = tmp_path_factory.mktemp("station")
    port = free_port()
    environment = prefect_environment(home / "prefect", port)
    server = start_module("prefect_server", "--port", str(port), environment=environment, log=home / "server.log")
    url = environment["PREFECT_API_URL"]
    try:

        def is_up() -> bool:
            assert server.popen.poll() is None, server.log.read_text()
            try:
                return httpx.get(f"{url}/health").is_success
            except httpx.TransportError:
                return False

        eventually(is_up)
        with SyncPrefectClient(url) as client:
            station = Station(home, environment, client)
            try:
                yield station
            finally:
                for worker in station.workers:
                    worker.stop(signal.SIGKILL)
    finally:
        server.stop()


@pytest.fixture(scope="package")
def worker(station: Station) -> Process:
    """One worker for all that do not stop it: its warm-up takes seconds."""
    return station.start_worker("trainyard")


@pytest.fixture(autouse=True)
def end_workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """End the workers that a test has started itself: two cores do not carry them all."""
    station: Station | None = request.getfixturevalue("station") if "station" in request.fixturenames else None
    shared = list(station.workers) if station else []
    yield
    for worker in station.workers[len(shared) :] if station else []:
        worker.stop(signal.SIGKILL)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.json"

"""A Prefect server with all deployments and a facade, both real."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.deployments.environment import prefect_environment
from support import poll

sys.path.insert(0, str(Path(__file__).parent))

from facade_support import (
    BODY_MAX_BYTES,
    DEPLOY,
    UPLOAD_MAX_BYTES,
    Facade,
    Member,
    Prefect,
    free_port,
    serve,
)


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    """Ten seconds to start, so there is one for all tests here; it has thousands of runs to look after at their end."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    environment = {**os.environ, **prefect_environment(home, port)}
    command = [sys.executable, "-m", "prefect_trainyard.deployments.prefect_server", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, cwd=home)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/", timeout=30) as client:

            def healthy() -> bool:
                assert server.poll() is None, "the Prefect server ended"
                try:
                    return client.get("health").status_code == 200
                except httpx.HTTPError:
                    return False

            poll(healthy, "the Prefect server", 90)
            subprocess.run([sys.executable, "-c", DEPLOY], env=environment, cwd=home, check=True)
            yield Prefect(client, environment)
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="package")
def facade(prefect_server: Prefect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    settings = ApiSettings(
        home=tmp_path_factory.mktemp("yard"),
        database_url=os.environ.get("TRAINYARD_TEST_CATALOG_URL", ""),
        prefect_api_url=prefect_server.api_url,
        upload_max_bytes=UPLOAD_MAX_BYTES,
        body_max_bytes=BODY_MAX_BYTES,
        free_min_bytes=0,
        reconcile_interval_s=2.0,
        # the walks over all routes are refused thousands of times, from one address
        refusals_per_minute=1_000_000,
        requests_per_s=10_000,
    )
    yield from serve(settings, prefect_server)


@pytest.fixture
def ann(facade: Facade) -> Member:
    """A user of an org of the test's own."""
    return facade.member()

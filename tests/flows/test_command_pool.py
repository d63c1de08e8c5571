"""Commands in a work pool of another type, taken by Prefect's own worker of that type.

`process` runs everywhere. `docker` needs a server that speaks Docker's API, the package prefect-docker, and in
TRAINYARD_TEST_IMAGE an image with this package; TRAINYARD_TEST_VOLUMES are its mounts, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from support import Yard, poll, trainyard

ENDS = {"SUCCESS", "ERROR", "USER_PROCESS_FAILED", "SYSTEM_TERMINATED", "USER_CANCELLED"}

pytestmark = pytest.mark.long


@pytest.fixture(params=["process", "docker"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "docker":
        if "TRAINYARD_TEST_IMAGE" not in os.environ:
            pytest.skip("TRAINYARD_TEST_IMAGE names no image with this package")
        if find_spec("prefect_docker") is None:
            pytest.skip("prefect-docker is not installed")
    return str(request.param)


@pytest.fixture
def yard(kind: str, tmp_path: Path) -> Iterator[Yard]:
    """A yard without workers of its own, and one of Prefect's for its work pool."""
    home = tmp_path / "home"
    worker: subprocess.Popen[bytes] | None = None
    try:
        options = ("--home", str(home), "--port", "0", "--workers", "0", "--detach")
        trainyard("up", *options, TRAINYARD_COMMAND_POOL=kind)
        status = json.loads(trainyard("status", "--home", str(home), "--json").stdout)
        key = trainyard("keys", "create", "--home", str(home), "--org", "acme", "--user", "ann").stdout.strip()
        prefect = f"{status['prefect_url']}/api"
        key_file = str(home / "secrets.key")
        if kind == "docker":
            _complete_template(prefect, key_file)
        with (tmp_path / "worker.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", f"trainyard-{kind}", "--type", kind],
                env={**os.environ, "PREFECT_API_URL": prefect, "TRAINYARD_SECRETS_KEY_FILE": key_file},
                cwd=tmp_path,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        yield Yard(home, status["api_url"], status["prefect_url"], status["mlflow_url"], key)
    finally:
        if worker is not None:
            worker.send_signal(signal.SIGINT)
            worker.wait(30)
        trainyard("down", "--home", str(home), check=False)
        print((tmp_path / "worker.log").read_text()[-4000:])


def _complete_template(prefect: str, key_file: str) -> None:
    """Say what an operator says in the UI: the image, and what is in each container."""
    url = f"{prefect}/work_pools/trainyard-docker"
    template = httpx.get(url).raise_for_status().json()["base_job_template"]
    chosen = {
        "image": os.environ["TRAINYARD_TEST_IMAGE"],
        "volumes": json.loads(os.environ.get("TRAINYARD_TEST_VOLUMES", "[]")),
        "image_pull_policy": "Never",
        "network_mode": "host",
        "auto_remove": True,
        "env": {
            "PREFECT_API_URL": prefect,
            "TRAINYARD_SECRETS_KEY_FILE": key_file,
            **json.loads(os.environ.get("TRAINYARD_TEST_ENV", "{}")),
        },
    }
    for name, value in chosen.items():
        template["variables"]["properties"][name]["default"] = value
    httpx.patch(url, json={"base_job_template": template}).raise_for_status()


def test_a_command_is_run_stopped_and_told_of_as_anywhere(kind: str, yard: Yard) -> None:
    with httpx.Client(base_url=f"{yard.api_url}/api/v1/", headers={"X-Api-Key": yard.key}, timeout=60) as api:

        def start(command: str) -> str:
            answer = api.post("jobs/", json={"run_command": command, "env_vars": {"API_TOKEN": "pool-sentinel"}})
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        def end(job_id: str) -> tuple[str, int | None]:
            def read() -> tuple[str, int | None] | None:
                job = api.get(f"jobs/{job_id}/").json()
                return (job["state"], job["exit_code"]) if job["state"] in ENDS else None

            return poll(read, f"the end of {job_id}", 120, 0.2)

        def log(job_id: str) -> str:
            return (yard.home / "storage" / "acme" / "logs" / f"{job_id}.txt").read_text()

        output = yard.home / "storage" / "acme" / "jobs"
        done = start("test -n $API_TOKEN && echo made > $TRAINYARD_OUTPUT_DIR/a.txt; cat /proc/self/cgroup")
        assert end(done) == ("SUCCESS", 0)
        assert (output / done / "output" / "a.txt").read_text() == "made\n"
        assert log(done).rstrip().endswith("Done EOF")
        assert ("libpod" in log(done) or "docker" in log(done)) == (kind == "docker")

        assert end(start("exit 7")) == ("USER_PROCESS_FAILED", 7)

        wait = "trap 'echo saved > $TRAINYARD_OUTPUT_DIR/b.txt; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
        stopped = start(wait)
        poll(lambda: "INFO ready" in log(stopped), "the start", 60)
        assert api.post(f"jobs/{stopped}/stop/").status_code == 200
        assert end(stopped) == ("USER_CANCELLED", None)
        assert (output / stopped / "output" / "b.txt").read_text() == "saved\n"

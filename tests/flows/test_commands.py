"""Commands in a whole yard: what they leave, what they use, and how they are ended."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from support import Yard, poll

ENDS = {"SUCCESS", "ERROR", "USER_PROCESS_FAILED", "SYSTEM_TERMINATED", "USER_CANCELLED"}


@pytest.fixture(scope="module")
def api(yard: Yard) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{yard.api_url}/api/v1/", headers={"X-Api-Key": yard.key}, timeout=60) as client:
        yield client


def start(api: httpx.Client, run_command: str, **fields: Any) -> str:
    answer = api.post("jobs/", json={"run_command": run_command, **fields})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def wait(api: httpx.Client, job_id: str, *states: str) -> dict[str, Any]:
    def read() -> dict[str, Any] | None:
        job: dict[str, Any] = api.get(f"jobs/{job_id}/").json()
        return job if job["state"] in (states or ENDS) else None

    return poll(read, f"the job {job_id} to be {states or 'at its end'}", 120, 0.2)


def log_of(yard: Yard, job_id: str) -> str:
    return (yard.home / "storage" / "acme" / "logs" / f"{job_id}.txt").read_text()


def test_what_a_command_leaves_is_kept_and_what_it_uses_is_measured(yard: Yard, api: httpx.Client) -> None:
    busy = "import os, time\nend = time.time() + 4\nwhile time.time() < end: pass\n"
    script = (
        f"python -c '{busy}'; echo trained > $TRAINYARD_OUTPUT_DIR/model.txt; ln -s /etc/passwd $TRAINYARD_OUTPUT_DIR/x"
    )
    job_id = start(api, script, name="busy", env_vars={"API_TOKEN": "token-sentinel"}, cpu_cores=1)
    wait(api, job_id, "RUNNING", *ENDS)
    shown = poll(lambda: job if (job := api.get(f"jobs/{job_id}/").json())["metrics"]["cpu"] else None, "a sample", 60)
    assert shown["metrics"]["memory_usage"] > 0
    assert shown["cloud_offer"]["cpus"] == 1
    done = wait(api, job_id)
    assert done["state"] == "SUCCESS", done
    assert done["exit_code"] == 0
    points = {
        name: api.get(f"metrics/{name}/", params={"job_id": job_id}).json()["data"]["points"]
        for name in ("cpu", "memory", "network", "disk", "gpu_utilization", "gpu_memory")
    }
    assert max(point["value"] for point in points["cpu"]) > 20
    assert min(point["value"] for point in points["memory"]) > 0
    assert len(points["network"]) == len(points["disk"]) == len(points["cpu"]) >= 2
    assert points["gpu_utilization"] == points["gpu_memory"] or points["gpu_memory"]

    storage = yard.home / "storage" / "acme"
    with tarfile.open(fileobj=io.BytesIO((storage / "downloads" / f"{job_id}.tar.gz").read_bytes())) as tar:
        names = tar.getnames()
    assert f"{job_id}/output/model.txt" in names
    assert not [name for name in names if name.endswith(("output/x", ".secrets"))]
    assert (storage / "jobs" / job_id / "output" / "model.txt").read_text() == "trained\n"
    found = [path for path in yard.home.rglob("*") if path.is_file() and b"token-sentinel" in path.read_bytes()]
    assert found == []


def test_a_command_that_fails_says_so_and_keeps_what_it_left(yard: Yard, api: httpx.Client) -> None:
    job_id = start(api, "echo half > $TRAINYARD_OUTPUT_DIR/half.txt; exit 7")
    failed = wait(api, job_id)
    assert (failed["state"], failed["exit_code"]) == ("USER_PROCESS_FAILED", 7)
    assert (yard.home / "storage" / "acme" / "jobs" / job_id / "output" / "half.txt").exists()
    setup = wait(api, start(api, "echo never", setup_command="exit 5"))
    assert (setup["state"], setup["exit_code"]) == ("USER_PROCESS_FAILED", 5)
    assert "never" not in log_of(yard, setup["id"]).splitlines()[-1]


def test_a_command_that_expires_or_takes_too_much_is_ended(yard: Yard, api: httpx.Client) -> None:
    expired = wait(api, start(api, "sleep 600", expires="6s"))
    assert expired["state"] == "SYSTEM_TERMINATED", expired
    assert "expired" in expired["message"]
    hungry = "python -c 'import os, time; os.fork(); x = b\"x\" * (180 << 20); time.sleep(600)'"
    killed = wait(api, start(api, hungry, memory_gb=0.25))
    assert killed["state"] == "SYSTEM_TERMINATED", killed
    assert "may use 256 MiB" in killed["message"]


def test_a_stopped_command_can_save_first(yard: Yard, api: httpx.Client) -> None:
    script = "trap 'echo saved > $TRAINYARD_OUTPUT_DIR/last.txt; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    job_id = start(api, script)
    poll(lambda: "INFO ready" in log_of(yard, job_id), "the start", 60)
    assert api.post(f"jobs/{job_id}/stop/").status_code == 200
    assert wait(api, job_id)["state"] == "USER_CANCELLED"
    assert (yard.home / "storage" / "acme" / "jobs" / job_id / "output" / "last.txt").read_text() == "saved\n"


def test_what_no_worker_has_is_refused_at_once(api: httpx.Client) -> None:
    # The facade learns on a timer what workers there are.
    def refused() -> httpx.Response | None:
        answer = api.post("jobs/", json={"run_command": "true", "cpu_cores": 4000})
        return answer if answer.status_code == 400 else None

    message = poll(refused, "the refusal", 30, 0.5).json()["error"]["message"]
    assert "cpus: 4000 asked for" in message
    for fields in ({"memory_gb": 500_000}, {"hdd_size_mb": 2_000_000_000}, {"gpus": 1000}):
        assert api.post("jobs/", json={"run_command": "true", **fields}).status_code == 400


def test_nothing_of_a_command_outlives_the_process_of_its_run(api: httpx.Client) -> None:
    # One that has left group and session of the command, below one that waits.
    escape = "import os, time\nif os.fork() == 0: os.setsid(); os.fork()\ntime.sleep(600)\n"
    job_id = start(api, f"python -c '{escape}'; true")
    mark = f"TRAINYARD_JOB_ID={job_id}"

    def alive() -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if mark in environment_of(process)]

    processes = poll(lambda: found if len(found := alive()) >= 4 else None, "the processes", 60)
    init = next(p.parent() for p in processes if p.parent() not in processes)
    assert init is not None
    run = init.parent()
    assert run is not None
    run.kill()
    poll(lambda: not alive(), "the end of all of them", 30)
    assert wait(api, job_id)["state"] == "SYSTEM_TERMINATED"


def environment_of(process: psutil.Process) -> str:
    try:
        return "\n".join(f"{name}={value}" for name, value in process.environ().items())
    except psutil.Error:
        return ""

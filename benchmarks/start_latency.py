"""From creating a flow run to the first line of its flow: our worker against the stock process worker.

One Prefect server, one deployment body, the workers one after the other:

    python benchmarks/start_latency.py [--runs 5] [--json FILE]

Ends with status 1 when our median is not 10 times below the stock worker with default settings and
5 times below it with its best settings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect_trainyard.deployments.environment import prefect_environment
from rich.console import Console
from rich.table import Table

ENTRYPOINT = f"{Path(__file__).with_name('flows.py')}:first_line"
DEADLINE_S = 120
#: The default poll of the stock worker; runs are created at a random moment of it.
POLL_S = 10.0


@dataclass(frozen=True)
class Rival:
    """One way to run the deployment."""

    name: str
    pool_type: str
    command: list[str]
    at_least: float | None = None
    environment: dict[str, str] = field(default_factory=dict)
    job_variables: dict[str, Any] = field(default_factory=dict)


def rivals() -> list[Rival]:
    stock = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process", "--pool"]
    return [
        Rival("trainyard", "trainyard", [sys.executable, "-m", "prefect_trainyard.deployments.worker", "--pool"]),
        Rival("process, default settings", "process", stock, at_least=10),
        Rival(
            "process, best settings",
            "process",
            stock,
            at_least=5,
            environment={"PREFECT_WORKER_QUERY_SECONDS": "0.5"},
            job_variables={"command": f"{sys.executable} -m prefect.engine"},
        ),
    ]


def until(look: Callable[[], Any], every_s: float = 0.05) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := look()):
        if time.monotonic() > end:
            raise TimeoutError("It did not happen in time; the output above says why.")
        time.sleep(every_s)
    return found


@contextmanager
def running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output.log").open("ab") as log:
        process = subprocess.Popen(command, env=os.environ | environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(
    rival: Rival, client: SyncPrefectClient, environment: dict[str, str], folder: Path, runs: int
) -> list[float]:
    """Return the seconds of each run; one more goes before them to warm everything up."""
    pool = rival.name.replace(",", "").replace(" ", "-")
    client.request("POST", "/work_pools/", json=WorkPoolCreate(name=pool, type=rival.pool_type).model_dump(mode="json"))
    deployment_id = client.create_deployment(
        client.create_flow_from_name("first-line"),
        pool,
        entrypoint=ENTRYPOINT,
        work_pool_name=pool,
        job_variables=rival.job_variables,
        enforce_parameter_schema=False,
    )

    def is_ready() -> bool:
        workers = client.request("POST", f"/work_pools/{pool}/workers/filter", json={}).json()
        return ready.exists() if rival.pool_type == "trainyard" else bool(workers)

    ready = folder / f"{pool}.ready"
    seconds = []
    with running(
        [*rival.command, pool], environment | rival.environment | {"TRAINYARD_WORKER_READY_FILE": str(ready)}, folder
    ):
        until(is_ready)
        for number in range(runs + 1):
            # All the same for a worker that is woken; the stock one must be met at any moment of its poll.
            time.sleep(2 + random.uniform(0, POLL_S if rival.at_least == 10 else 0.5))
            stamp = folder / f"{pool}-{number}"
            start = time.time()
            client.create_flow_run_from_deployment(deployment_id, parameters={"stamp": str(stamp)})
            until(lambda stamp=stamp: stamp.exists() and stamp.read_text(), every_s=0.01)
            if number:
                seconds.append(float(stamp.read_text().split()[0]) - start)
    return seconds


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Prefect server with its state in `folder`; give the environment of those who use it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = prefect_environment(folder / "prefect", port) | {"TRAINYARD_WORKER_SCRATCH": str(folder / "scratch")}
    server = [sys.executable, "-m", "prefect_trainyard.deployments.prefect_server", "--port", str(port)]

    def is_up() -> bool:
        try:
            return httpx.get(f"{environment['PREFECT_API_URL']}/health").is_success
        except httpx.TransportError:
            return False

    with running(server, environment, folder):
        until(is_up)
        yield environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()

    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        folder = Path(name)
        with serving(folder) as environment, SyncPrefectClient(environment["PREFECT_API_URL"]) as client:
            for rival in rivals():
                results[rival.name] = measure(rival, client, environment, folder, options.runs)

    ours = statistics.median(results["trainyard"])
    table = Table("worker", "median s", "best s", "worst s", "times ours", "at least", title="create run -> first line")
    report = []
    for rival in rivals():
        seconds = results[rival.name]
        median = statistics.median(seconds)
        ratio = median / ours
        wanted = "" if rival.at_least is None else f"{rival.at_least:.0f}"
        table.add_row(rival.name, f"{median:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", f"{ratio:.1f}", wanted)
        report.append(
            {"worker": rival.name, "median_s": median, "seconds": seconds, "ratio": ratio, "at_least": rival.at_least}
        )
    Console(width=100).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["at_least"] is not None and row["ratio"] < row["at_least"] for row in report))


if __name__ == "__main__":
    sys.exit(main())

"""Requests per second and p99 of the facade beside the servers that it stands on: MLflow and Prefect.

One yard without workers, with 10,000 jobs that are done. Every request is measured in several short turns, one target
after the other, so that a slow minute of the machine is nobody's own:

    python benchmarks/request_rates.py [--jobs 10000] [--connections 4] [--seconds 4] [--rounds 3] [--json FILE]

Reads of the facade have to be ahead of MLflow's `runs/get` and of Prefect's `flow_runs/{id}`, in both figures. The
POST of a job makes a flow run in Prefect, so it is set beside what makes one there, and beside MLflow's `runs/create`.
Ends with status 1 when the facade is not ahead.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from faults.yard import ORG, FaultyYard, until

PAGE = 20
READS, WRITES = ("runs/get", "flow_runs/{id}"), ("runs/create", "create_flow_run")


@dataclass
class Target:
    """One request, and how long each of its answers took."""

    name: str
    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: Callable[[], object] | None = None
    rivals: tuple[str, ...] = ()
    seconds: list[float] = field(default_factory=list)
    busy_s: float = 0.0

    @property
    def per_s(self) -> float:
        return len(self.seconds) / self.busy_s

    @property
    def p99_ms(self) -> float:
        return 1000 * statistics.quantiles(self.seconds, n=100)[98]

    def run(self, connections: int, seconds: float) -> None:
        """Ask over and over, each connection one request at a time."""
        end = time.monotonic() + seconds
        took: list[list[float]] = [[] for _ in range(connections)]
        faults: list[str] = []

        def ask(mine: list[float]) -> None:
            parts = urlsplit(self.url)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            headers = {"Content-Type": "application/json", **self.headers}
            while time.monotonic() < end and not faults:
                body = json.dumps(self.body()).encode() if self.body is not None else None
                began = time.perf_counter()
                connection.request(self.method, path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                mine.append(time.perf_counter() - began)
                if answer.status >= 300:
                    faults.append(f"{self.name}: {answer.status} {content[:300]!r}")
            connection.close()

        threads = [threading.Thread(target=ask, args=(mine,)) for mine in took]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if faults:
            raise RuntimeError(faults[0])
        self.busy_s += time.monotonic() - began
        self.seconds += [one for mine in took for one in mine]


def fill(database: Path, job_id: str, count: int) -> None:
    """Copy a job until there are `count`: making them one by one takes minutes and changes nothing of what is read."""
    with sqlite3.connect(database, timeout=60) as catalog:
        columns = [row[1] for row in catalog.execute("PRAGMA table_info(jobs)")]
        others = ", ".join(name for name in columns if name not in ("id", "created_at"))
        catalog.executemany(
            f"INSERT INTO jobs (id, created_at, {others}) "
            f"SELECT ?, datetime(created_at, ?), {others} FROM jobs WHERE id = ?",
            [(uuid.uuid4().hex, f"-{number} seconds", uuid.UUID(job_id).hex) for number in range(1, count)],
        )


def targets(yard: FaultyYard, jobs: int) -> list[Target]:
    """Return what is measured, with everything made that it reads."""
    experiment = yard.experiment()
    job_id = yard.rest.send("POST", f"{experiment}/jobs", {"action": "train"}).json()
    yard.rest.send("POST", f"{experiment}/jobs/{job_id}:cancel")
    until(lambda: yard.rest.get(f"{experiment}/jobs/{job_id}")["status"] == "Canceled", "the job to end", 30)
    fill(yard.home / "catalog.db", job_id, jobs)
    api = f"{yard.api_url}/api/v1/orgs/{ORG}/{experiment}/jobs"
    token = {"Authorization": yard.rest._http.headers["Authorization"]}
    total = int(httpx.get(f"{api}?size=1", headers=token).raise_for_status().headers["x-pagination-total"])
    assert total == jobs, f"{total} jobs are listed"
    mlflow, prefect = f"{yard.mlflow_url}/api/2.0/mlflow", f"{yard.prefect_url}/api"
    made = httpx.post(f"{mlflow}/runs/create", json={"experiment_id": "0"}, timeout=60).raise_for_status()
    run_id = made.json()["run"]["info"]["run_id"]
    deployment = httpx.get(f"{prefect}/deployments/name/train/classification_pyt").raise_for_status().json()
    parameters = httpx.get(f"{prefect}/flow_runs/{job_id}").raise_for_status().json()["parameters"]
    return [
        Target("GET job", "GET", f"{api}/{job_id}", token, rivals=READS),
        Target(f"list, first {PAGE} of {jobs}", "GET", f"{api}?size={PAGE}", token, rivals=READS),
        Target("POST job", "POST", api, token, body=lambda: {"action": "train"}, rivals=WRITES),
        Target("runs/get", "GET", f"{mlflow}/runs/get?run_id={run_id}"),
        Target("flow_runs/{id}", "GET", f"{prefect}/flow_runs/{job_id}"),
        Target("runs/create", "POST", f"{mlflow}/runs/create", body=lambda: {"experiment_id": "0"}),
        Target(
            "create_flow_run",
            "POST",
            f"{prefect}/deployments/{deployment['id']}/create_flow_run",
            body=lambda: {"parameters": parameters},
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
        yard = FaultyYard(Path(folder), workers="0", api_requests_per_s="1000000", api_requests_burst="1000000")
        try:
            yard.start()
            measured = targets(yard, options.jobs)
            for target in measured:
                target.run(options.connections, 0.5)
                target.seconds.clear()
                target.busy_s = 0.0
            for _ in range(options.rounds):
                for target in measured:
                    target.run(options.connections, options.seconds)
        finally:
            yard.stop()
    by_name = {target.name: target for target in measured}
    table = Table("request", "per s", "p99 ms", "ahead of", title=f"{options.connections} connections")
    behind = 0
    for target in measured:
        words = []
        for rival in (by_name[name] for name in target.rivals):
            ahead = target.per_s > rival.per_s and target.p99_ms < rival.p99_ms
            behind += not ahead
            words.append(f"{rival.name}: {'yes' if ahead else 'NO'} ({target.per_s / rival.per_s:.1f}x)")
        table.add_row(target.name, f"{target.per_s:.0f}", f"{target.p99_ms:.1f}", ", ".join(words))
    Console(width=120).print(table)
    if options.json is not None:
        figures = [{"request": t.name, "per_s": t.per_s, "p99_ms": t.p99_ms} for t in measured]
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(behind > 0)


if __name__ == "__main__":
    sys.exit(main())

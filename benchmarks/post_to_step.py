"""From POST to the first training step: a yard with its warm worker against Prefect's own process worker.

One yard (Prefect server, MLflow, facade), the same train flow, spec, data and parameters for all; the workers one after
the other. Our runs go through REST, those of the stock worker straight to Prefect, which is the shorter way:

    python benchmarks/post_to_step.py [--runs 5] [--json FILE]

Ends with status 1 when our median is not 10 times below the stock worker with default settings and 5 times below it
with its best settings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect_trainyard.deployments.environment import mlflow_environment, prefect_environment
from rich.console import Console
from rich.table import Table
from start_latency import POLL_S, Rival, rivals, running, until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from digits import write_digits

ORG = "bench"
SPEC: dict[str, Any] = {
    "model": {"backbone": {"type": "resnet10t"}},
    "dataset": {"batch_size": 64, "augmentation": {"horizontal_flip": 0.0}},
    "train": {"train_config": {"runner": {"max_epochs": 1}}},
}


def trainyard(*arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("trainyard")), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def first_step(storage: Path, job_id: str) -> float | None:
    """Return when the first training step of a job was done, from the first line of its status file."""
    status = storage / ORG / "jobs" / job_id / "status.json"
    if not status.exists() or not (lines := status.read_text().splitlines()):
        return None
    return datetime.fromisoformat(json.loads(lines[0])["at"]).timestamp()


def prepare(http: httpx.Client, data: Path) -> str:
    """Upload the digits and return the id of an experiment that trains on them. The first run indexes them."""
    made = http.post("datasets", json={"type": "image_classification", "format": "classification_pyt"}).json()["id"]
    with (data / "train_1.tar.gz").open("rb") as stream:
        http.post(f"datasets/{made}:upload", files={"file": ("digits.tar.gz", stream)}).raise_for_status()
    experiment = str(http.post("experiments", json={"network_arch": "classification_pyt"}).json()["id"])
    http.patch(f"experiments/{experiment}", json={"train_datasets": [made]}).raise_for_status()
    return experiment


def measure(
    rival: Rival,
    runs: int,
    http: httpx.Client,
    experiment: str,
    client: SyncPrefectClient,
    env: dict[str, str],
    home: Path,
) -> list[float]:
    """Return the seconds of each run; one more goes before them to warm everything up."""
    is_ours = rival.at_least is None
    storage, ready = home / "storage", home / "bench.ready"
    body = {"action": "train", "specs": SPEC, "parent_job_id": None}
    pool = "trainyard" if is_ours else rival.name.replace(",", "").replace(" ", "-")
    deployment_id = None
    if not is_ours:
        client.request("POST", "/work_pools/", json=WorkPoolCreate(name=pool, type="process").model_dump(mode="json"))
        deployment_id = client.create_deployment(
            client.create_flow_from_name("train"),
            pool,
            entrypoint="prefect_trainyard.flows.job.train",
            work_pool_name=pool,
            job_variables={**rival.job_variables, "env": {k: v for k, v in env.items() if k.startswith("TRAINYARD_")}},
        )
    parameters = {"org": ORG, "experiment_id": experiment, "spec": SPEC}

    def is_ready() -> bool:
        workers = client.request("POST", f"/work_pools/{pool}/workers/filter", json={}).json()
        return ready.exists() if is_ours else bool(workers)

    seconds = []
    worker_env = env | rival.environment | {"TRAINYARD_WORKER_READY_FILE": str(ready)}
    with running([*rival.command, pool], worker_env, home):
        until(is_ready)
        for number in range(runs + 1):
            time.sleep(2 + random.uniform(0, POLL_S if rival.at_least == 10 else 0.5))
            start = time.time()
            if is_ours:
                job_id = str(http.post(f"experiments/{experiment}/jobs", json=body).raise_for_status().json())
            else:
                job_id = str(client.create_flow_run_from_deployment(deployment_id, parameters=parameters).id)
            step = until(lambda job_id=job_id: first_step(storage, job_id), every_s=0.01)
            if number:
                seconds.append(step - start)

            def ended(job_id: str = job_id) -> bool:
                state = client.read_flow_run(job_id).state
                return state is not None and state.is_final()

            until(ended, every_s=0.2)
            state = client.read_flow_run(job_id).state
            if state is None or not state.is_completed():
                raise RuntimeError(f"The run {job_id} ended as {state}; a figure of it would mean nothing.")
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        home = Path(name) / "home"
        write_digits(Path(name) / "digits")
        try:
            trainyard("up", "--home", str(home), "--port", "0", "--workers", "0", "--detach")
            status = json.loads(trainyard("status", "--home", str(home), "--json"))
            key = trainyard("keys", "create", "--home", str(home), "--org", ORG, "--user", "bench")
            login = httpx.post(f"{status['api_url']}/api/v1/login", json={"ngc_api_key": key}).raise_for_status()
            headers = {"Authorization": f"Bearer {login.json()['token']}"}
            port, mlflow_port = (int(status[part].rsplit(":", 1)[1]) for part in ("prefect_url", "mlflow_url"))
            env = {
                **prefect_environment(home / "prefect", port),
                **mlflow_environment(mlflow_port),
                "TRAINYARD_STORAGE_URL": f"file://{home}/storage",
                "TRAINYARD_WORKER_SCRATCH": str(home / "work"),
                "OMP_WAIT_POLICY": "PASSIVE",
            }
            os.environ |= env
            base = f"{status['api_url']}/api/v1/orgs/{ORG}/"
            with (
                httpx.Client(base_url=base, headers=headers, timeout=60) as http,
                SyncPrefectClient(env["PREFECT_API_URL"]) as client,
            ):
                experiment = prepare(http, Path(name) / "digits")
                for rival in rivals():
                    results[rival.name] = measure(rival, options.runs, http, experiment, client, env, home)
        finally:
            trainyard("down", "--home", str(home))

    ours = statistics.median(results["trainyard"])
    table = Table(
        "worker", "median s", "best s", "worst s", "times ours", "at least", title="POST -> first training step"
    )
    report = []
    for rival in rivals():
        seconds = results[rival.name]
        median = statistics.median(seconds)
        wanted = "" if rival.at_least is None else f"{rival.at_least:.0f}"
        table.add_row(
            rival.name, f"{median:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}", f"{median / ours:.1f}", wanted
        )
        report.append({"worker": rival.name, "median_s": median, "seconds": seconds, "ratio": median / ours})
    Console(width=100).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(r.at_least and row["ratio"] < r.at_least for r, row in zip(rivals(), report, strict=True)))


if __name__ == "__main__":
    sys.exit(main())

"""Memory of an idle yard, part by part, beside a Prefect server and an MLflow server alone.

    python benchmarks/idle_memory.py [--json FILE]

PSS in MiB (memory shared between processes is counted once), after a minute of rest. The rivals are `prefect server
start` and `mlflow server --workers 1` without its job runners, the smallest that it can be told to be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from prefect_trainyard.deployments.environment import prefect_environment
from prefect_trainyard.deployments.home import free_port
from rich.console import Console
from rich.table import Table
from start_latency import running, until

REST_S = 60.0


def pss_mib(pid: int) -> float:
    """Return the memory of a process and all its children."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family) / 2**20


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def measure_rivals(folder: Path) -> dict[str, float]:
    prefect_port, mlflow_port = free_port(), free_port()
    environment = prefect_environment(folder / "prefect", prefect_port)
    binaries = Path(sys.executable).parent
    prefect = [str(binaries / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
    mlflow = [
        *(str(binaries / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
    ]
    with (
        running(prefect, environment, folder) as first,
        running(mlflow, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, folder) as second,
    ):
        until(lambda: answers(f"http://127.0.0.1:{prefect_port}/api/health"))
        until(lambda: answers(f"http://127.0.0.1:{mlflow_port}/health"))
        time.sleep(REST_S)
        return {"prefect server start": pss_mib(first.pid), "mlflow server": pss_mib(second.pid)}


def measure_yard(home: Path) -> dict[str, float]:
    command = str(Path(sys.executable).with_name("trainyard"))

    def trainyard(*arguments: str) -> str:
        return subprocess.run([command, *arguments], check=True, capture_output=True, text=True).stdout

    try:
        trainyard("up", "--home", str(home), "--port", "0", "--detach")
        time.sleep(REST_S)
        status = json.loads(trainyard("status", "--home", str(home), "--json"))
        return {name: pss_mib(part["pid"]) for name, part in status["parts"].items()}
    finally:
        trainyard("down", "--home", str(home))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    os.environ.pop("PREFECT_API_URL", None)
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        folder = Path(name)
        rivals = measure_rivals(folder)
        yard = measure_yard(folder / "home")
    servers = sum(memory for part, memory in yard.items() if not part.startswith("worker"))
    alone = sum(rivals.values())
    table = Table("what", "PSS MiB", "of Prefect + MLflow alone", title="Idle memory")
    for part, memory in [*rivals.items(), *yard.items()]:
        table.add_row(part, f"{memory:.0f}", "")
    table.add_row("yard without its worker", f"{servers:.0f}", f"{servers / alone:.2f}")
    table.add_row("yard", f"{sum(yard.values()):.0f}", f"{sum(yard.values()) / alone:.2f}")
    Console(width=100).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps({"rivals": rivals, "yard": yard}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""A chain of 1,000 jobs, each after the one before: how long it takes to make it, and to end all of it at its root.

One yard without workers, so that nothing but the facade and Prefect is measured:

    python benchmarks/chain.py [--jobs 1000] [--json FILE]

Ends with status 1 when a descendant is not Canceled, or does not name its own parent and the root.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from faults.yard import FaultyYard, until

END_S = 300.0


def cancelled_in_prefect(prefect: httpx.Client) -> int:
    wanted = {"flow_runs": {"state": {"type": {"any_": ["CANCELLED"]}}}}
    return int(prefect.post("flow_runs/count", json=wanted).raise_for_status().json())


def measure(yard: FaultyYard, length: int) -> tuple[dict[str, float], list[str]]:
    """Return seconds by what was measured, and what was wrong."""
    rest = yard.client("5.5")
    path = f"{yard.experiment()}/jobs"
    began = time.monotonic()
    chain: list[str] = []
    for _ in range(length):
        body = {"action": "train", "parent_job_id": chain[-1] if chain else None}
        answer = rest.send("POST", path, body)
        assert answer.status_code == 201, answer.text
        chain.append(answer.json())
    created = time.monotonic()
    assert rest.send("POST", f"{path}/{chain[0]}:cancel").status_code < 300
    last = f"{path}/{chain[-1]}"
    until(lambda: rest.get(last)["status"] == "Canceled", "the last job to be Canceled in REST", END_S)
    told = time.monotonic()
    until(lambda: cancelled_in_prefect(yard.prefect) == length, "all jobs to be Cancelled in Prefect", END_S)
    settled = time.monotonic()
    wrong = []
    for parent, job_id in pairwise(chain):
        job = rest.get(f"{path}/{job_id}")
        message = job["result"]["detailed_status"]["message"]
        if job["status"] != "Canceled" or parent not in message or chain[0] not in message:
            wrong.append(f"{job_id} is {job['status']}: {message}")
    seconds = {
        "POST of one job": (created - began) / length,
        "POST of all": created - began,
        "cancel of the root -> the last one Canceled in REST": told - created,
        "cancel of the root -> all Cancelled in Prefect": settled - created,
    }
    return seconds, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-chain-") as folder:
        yard = FaultyYard(Path(folder), workers="0")
        try:
            yard.start()
            seconds, wrong = measure(yard, options.jobs)
        finally:
            yard.stop()
    table = Table("what", "seconds", title=f"A chain of {options.jobs} jobs")
    for name, value in seconds.items():
        table.add_row(name, f"{value:.3f}")
    console = Console()
    console.print(table)
    for line in wrong[:20]:
        console.print(line, style="red")
    console.print(f"{len(wrong)} of {options.jobs - 1} descendants are wrong.")
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

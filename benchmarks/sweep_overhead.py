"""How much longer a sweep takes than its trials: sleeping trials of one second, 2, 4 and 16 at once.

As functions and as tasks of a flow (`flows.search`), and as flow runs of a work pool with one worker that has as many
slots (`flows.trial_pool`), against a Prefect server on this machine:

    python benchmarks/sweep_overhead.py [--widths 2 4 16] [--rounds 8] [--seconds 1] [--json FILE]

The overhead is the time of the whole search over (number of trials / width) * seconds, less one. Ray Tune has published
14.5 % for trials of one second, 16 at once, on 16 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner
from prefect_trainyard.flows.search import TrialTask, search
from prefect_trainyard.flows.trial_pool import TrialPool
from prefect_trainyard.flows.trial_runs import TrialRuns
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.conduct import conduct
from prefect_trainyard.sweeps.search import Search
from prefect_trainyard.sweeps.study import Study, open_storage
from prefect_trainyard.sweeps.trials import Metric, Trial
from rich.console import Console
from rich.table import Table
from start_latency import running, serving, until

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-5, 1, log=True)}
VALUE = Metric("value", maximize=True)
ENTRYPOINT = f"{Path(__file__).with_name('flows.py')}:sleeping_trial"


@dataclass
class Figures:
    """One search."""

    way: str
    width: int
    trials: int
    seconds: float
    overhead: float
    empty_ms: float
    """Median time that a slot had nothing to do because of the controller, by its own books."""
    empty_max_ms: float


def figures(
    way: str, width: int, settings: SweepSettings, pure_s: float, took_s: float, empty_s: list[float]
) -> Figures:
    return Figures(
        way=way,
        width=width,
        trials=settings.max_trials,
        seconds=took_s,
        overhead=took_s / pure_s - 1,
        empty_ms=1000 * statistics.median(empty_s),
        empty_max_ms=1000 * max(empty_s),
    )


def sleep(trial: TrialTask, seconds: float) -> float:
    time.sleep(seconds)
    return float(trial.params["x"])


def in_a_flow(way: str, width: int, rounds: int, seconds: float, folder: Path) -> Figures:
    settings = SweepSettings(algorithm="tpe", max_trials=rounds * width, max_concurrent=width)
    call = partial(sleep, seconds=seconds)
    objective = task(name="sleep")(call) if way == "tasks" else call

    @flow(name=f"sweep-of-{way}", task_runner=ThreadPoolTaskRunner(max_workers=width))
    def run() -> tuple[float, list[float]]:
        began = time.perf_counter()
        found = search(objective, SPACE, folder=folder / f"{way}-{width}", settings=settings)
        return time.perf_counter() - began, found.delays_s

    return figures(f"{way} of a flow", width, settings, rounds * seconds, *run())


class _Space:
    """The same space for the other way."""

    distributions = SPACE

    def defaults(self) -> None:
        return None

    def effective(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return params

    def grid(self) -> dict[str, list[Any]]:
        return {}


def as_flow_runs(width: int, rounds: int, seconds: float, folder: Path) -> Figures:
    # The width is that of the worker: one more trial than there are slots stands in the queue.
    settings = SweepSettings(algorithm="tpe", max_trials=rounds * width)
    study = Study(open_storage(folder / f"runs-{width}.journal"), "sweep", [VALUE], SPACE)
    found = Search(study, _Space(), settings, [VALUE], epochs=1)
    files = folder / f"runs-{width}"
    files.mkdir()

    def result(trial: Trial) -> Path:
        return files / f"{trial.number}.json"

    def parameters(trial: Trial) -> dict[str, Any]:
        return {
            "number": trial.number,
            "until_epoch": trial.asked,
            "seconds": seconds,
            "result": str(result(trial)),
        }

    with TrialRuns(str(uuid.uuid4()), f"sleeping-trial/width-{width}") as runs:
        pool = TrialPool(
            found,
            runs,
            parameters=parameters,
            read_result=lambda trial: JobResult.model_validate_json(result(trial).read_text()),
            keep=lambda: None,
            tags=[],
            work_queue=None,
            job_variables={},
        )
        began = time.perf_counter()
        delays = conduct(found, pool, is_stopping=lambda: False, tell=lambda: None)
        took = time.perf_counter() - began
    assert all(trial.status == "success" for trial in found.trials), [trial.message for trial in found.trials]
    return figures("flow runs of a pool", width, settings, rounds * seconds, took, delays.seconds)


@contextmanager
def worker(client: SyncPrefectClient, width: int, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run a worker with as many slots as the sweep is wide."""
    pool = f"width-{width}"
    client.request("POST", "/work_pools/", json=WorkPoolCreate(name=pool, type="trainyard").model_dump(mode="json"))
    client.create_deployment(
        client.create_flow_from_name("sleeping-trial"),
        pool,
        entrypoint=ENTRYPOINT,
        work_pool_name=pool,
        enforce_parameter_schema=False,
    )
    ready = folder / f"{pool}.ready"
    settings = {"TRAINYARD_WORKER_READY_FILE": str(ready), "TRAINYARD_WORKER_CPUS": str(width)}
    command = [sys.executable, "-m", "prefect_trainyard.deployments.worker", "--pool", pool]
    with running(command, environment | settings, folder):
        until(ready.exists)
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--rounds", type=int, default=8, help="trials per slot")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="trainyard-sweeps-") as scratch:
        folder = Path(scratch)
        with serving(folder) as environment:
            os.environ |= environment
            with (
                temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}),
                get_client(sync_client=True) as client,
            ):
                for width in options.widths:
                    found += [
                        in_a_flow(way, width, options.rounds, options.seconds, folder) for way in ("functions", "tasks")
                    ]
                    with worker(client, width, environment, folder):
                        found.append(as_flow_runs(width, options.rounds, options.seconds, folder))
    title = f"Trials of {options.seconds:g} s on {os.cpu_count()} cores"
    table = Table("way", "at once", "trials", "seconds", "overhead", "empty slot, median", "longest", title=title)
    for row in found:
        table.add_row(
            row.way,
            str(row.width),
            str(row.trials),
            f"{row.seconds:.2f}",
            f"{row.overhead:.1%}",
            f"{row.empty_ms:.1f} ms",
            f"{row.empty_max_ms:.1f} ms",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prefect

SCRIPT = """
import multiprocessing
import torch
from optuna.distributions import FloatDistribution
from pathlib import Path
from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness
from prefect_trainyard.flows.search import search
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.tasks.forks import tolerate_forks

def load(trial=None) -> int:
    loader = torch.utils.data.DataLoader(list(range(64)), batch_size=8, num_workers=2)
    forked = multiprocessing.get_context("fork").Process(target=int)
    forked.start()
    total = sum(int(batch.sum()) for batch in loader)
    forked.join()
    assert forked.exitcode == 0
    return total

@flow
def searched() -> int:
    one = SweepSettings(max_trials=1)
    return int(search(load, {"x": FloatDistribution(0, 1)}, folder=Path("study"), settings=one).best.result)

@flow
def submitted() -> int:
    tolerate_forks()
    return task(load).submit().result()

@flow
def called() -> int:
    return load()

with prefect_test_harness():
    print("sums", searched(), submitted(), called())
"""


def test_data_loader_workers_end_well_wherever_a_flow_forks_them(tmp_path: Path) -> None:
    assert prefect.__version__.startswith("3.8."), "look whether Prefect still needs tasks/forks.py, then change this"
    script = tmp_path / "load.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sums 2016 2016 2016" in done.stdout
    assert "exited unexpectedly" not in done.stderr

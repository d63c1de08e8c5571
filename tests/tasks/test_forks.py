from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import prefect

SCRIPT = """
import torch
from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness
from prefect_trainyard.tasks.forks import tolerate_forks

@flow
def load() -> int:
    tolerate_forks()
    loader = torch.utils.data.DataLoader(list(range(64)), batch_size=8, num_workers=2)
    return sum(int(batch.sum()) for batch in loader)

with prefect_test_harness():
    print("sum", load())
"""


def test_data_loader_workers_end_well_inside_a_flow(tmp_path: Path) -> None:
    assert prefect.__version__.startswith("3.8."), "look whether Prefect still needs tasks/forks.py, then change this"
    script = tmp_path / "load.py"
    script.write_text(SCRIPT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sum 2016" in done.stdout
    assert "exited unexpectedly" not in done.stderr

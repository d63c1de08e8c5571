"""The example of a sweep over a function of one's own, killed in the middle and called again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from support import ROOT, Yard, poll


def test_it_finds_a_good_point_and_survives_a_kill(yard: Yard, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": f"{yard.prefect_url}/api", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "examples/own_sweep.py"), str(tmp_path / "sweep")]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    poll(lambda: len(list(tmp_path.glob("sweep/trial_*/checkpoint.pt"))) >= 8, "eight trials", 120)
    assert first.poll() is None, "it was killed too late"
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert second.returncode == 0, second.stderr
    told = re.search(r"27 trials, (\d+) epochs instead of 729", second.stdout)
    assert told is not None and int(told[1]) < 200, second.stdout
    best = re.search(r"The best is trial \d+: (0\.\d+)", second.stdout)
    assert best is not None and float(best[1]) > 0.95, second.stdout
    assert len(list(tmp_path.glob("sweep/trial_*"))) == 27

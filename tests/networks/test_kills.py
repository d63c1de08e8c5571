"""Trainings that are killed at random moments, in the middle of a write as well, and resumed until they are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, os, random, signal, sys
from pathlib import Path

import torch
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.schemas.reporting import SilentReporter
from test_loop import Regression, run

torch.set_num_threads(1)
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
PLAN = {"max_epochs": 8, "checkpoint_minutes": 1e-9, "keep_last": 2}

def attempt(where, calls):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    class Killer(SilentReporter):
        def stop_requested(self):
            # From the first step on: before it are a hundred thousand calls of imports.
            sys.setprofile(count if calls else None)
            return False

    def count(frame, event, argument):
        nonlocal calls
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    learner = Regression(scores=[0.5, 0.6, 0.4, 0.7, 0.1, 0.2, 0.3, 0.9])
    learner.evaluate = lambda ranks: {"score": float(torch.tanh(learner.model[0].weight.detach().sum()))}
    result, state = run(where, Killer(), learner, **PLAN)
    sys.setprofile(None)
    torch.save({"state": state, "history": [e.metrics for e in result.history]}, where.with_suffix(".pt"))
    os._exit(0)

# What every attempt would import anew, which takes seconds.
parameter = torch.nn.Parameter(torch.zeros(1))
parameter.grad = torch.zeros(1)
torch.optim.AdamW([parameter]).step()

assert attempt(folder / "whole", 0) == 0
chance = random.Random(seed)
kills, progress = 0, []
while (code := attempt(folder / "killed", chance.randint(5_000, 60_000))) == -signal.SIGKILL:
    kills += 1
    assert kills < 100, progress
    found = newest_checkpoint(folder / "killed")
    progress.append(found[1].step if found else 0)
    if found:
        # A newer one that was never complete.
        content = found[0].read_bytes()
        (folder / "killed/checkpoint_epoch_099.pth").write_bytes(content[: chance.randint(0, len(content) - 1)])
        manifest = {**found[1].model_dump(), "file": "checkpoint_epoch_099.pth", "epoch": 99, "step": 10**6}
        (folder / "killed/checkpoint_epoch_099.json").write_text(json.dumps(manifest))
assert code == 0, code
print(json.dumps({"kills": kills, "progress": progress}))
"""


def test_killed_at_random_moments_a_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(tmp_path), "7"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] >= 20
    assert told["progress"] == sorted(told["progress"])

    import torch

    whole, killed = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "killed"))
    assert whole["history"] == killed["history"]
    assert whole["state"].keys() == killed["state"].keys()
    assert all(torch.equal(whole["state"][name], killed["state"][name]) for name in whole["state"])
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).glob("*.safetensors")} for n in ("whole", "killed")]
    assert files[0] == files[1]
    assert not list((tmp_path / "killed").glob(".*.tmp"))
    assert len(list((tmp_path / "killed").glob("checkpoint_*"))) == 2

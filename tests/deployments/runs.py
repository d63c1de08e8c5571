"""Flows that the tests of the worker run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from pathlib import Path

from prefect import flow, get_run_logger


@flow
def report(out: str) -> None:
    """Write what a run finds around itself."""
    import numpy as np
    import torch

    found = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "cwd": str(Path.cwd()),
        "env": dict(os.environ),
        "threads": torch.get_num_threads(),
        "random": [random.random(), float(np.random.rand()), float(torch.rand(1))],
    }
    _write(out, found)


@flow
def hold(out: str, save_s: float = 0.0) -> None:
    """Start a process in the group and one outside it, then wait to be stopped."""
    inside = subprocess.Popen(["sleep", "300"])
    outside = subprocess.Popen(["sleep", "300"], start_new_session=True)
    _write(out, {"pids": [os.getpid(), inside.pid, outside.pid], "cuda": os.environ["CUDA_VISIBLE_DEVICES"]})
    try:
        time.sleep(300)
    except BaseException as reason:
        time.sleep(save_s)
        _write(f"{out}.saved", {"reason": type(reason).__name__})
        raise


@flow
def hold_with_loader(out: str) -> None:
    """Wait in the middle of a DataLoader's batches; save slowly when stopped."""
    from torch.utils.data import DataLoader

    batches = iter(DataLoader(range(1_000_000), batch_size=1, num_workers=2))
    next(batches)
    _write(out, {"pids": [os.getpid()]})
    try:
        for _ in batches:
            time.sleep(0.01)
    except BaseException as reason:
        time.sleep(1)
        _write(f"{out}.saved", {"reason": type(reason).__name__})
        raise


@flow
def load(out: str) -> None:
    """Add up a data set that two DataLoader workers read."""
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(range(1000), batch_size=10, num_workers=2)
    _write(out, {"sum": int(sum(torch.as_tensor(batch).sum() for batch in loader))})


@flow
def talk(lines: int) -> None:
    logger = get_run_logger()
    for number in range(lines):
        logger.info("line %d", number)


@flow
def ignore_sigterm(out: str) -> None:
    """Wait, and do not stop when asked to."""
    _write(out, {"pids": [os.getpid()]})
    while True:
        try:
            time.sleep(300)
        except BaseException:  # noqa: BLE001
            continue


@flow
def leave(out: str, code: int) -> None:
    """End the process as a library that calls `_exit` does; note each attempt."""
    _note(out)
    os._exit(code)


@flow
def fail(out: str) -> None:
    _note(out)
    raise RuntimeError("it cannot be done")


@flow
def line_up(out: str, name: str) -> None:
    with Path(out).open("a") as file:
        file.write(f"{name}\n")


def _note(out: str) -> None:
    earlier = json.loads(Path(out).read_text()) if Path(out).exists() else []
    _write(out, [*earlier, os.getpid()])


def _note_hook(flow: object, flow_run: object, state: object) -> None:
    out = Path(flow_run.parameters["out"])  # type: ignore[attr-defined]
    _write(f"{out}.hook", {"state": state.name})  # type: ignore[attr-defined]


@flow(on_cancellation=[_note_hook], on_crashed=[_note_hook])
def with_hooks(out: str) -> None:
    _write(out, {"pids": [os.getpid()]})
    time.sleep(300)


def _wait_in_hook(flow: object, flow_run: object, state: object) -> None:
    out = flow_run.parameters["out"]  # type: ignore[attr-defined]
    _write(out, {"pids": [os.getpid()]})
    while Path(out).exists():
        time.sleep(0.02)


@flow(on_completion=[_wait_in_hook])
def end_slowly(out: str) -> None:
    """Say something, complete, and wait in a hook until `out` is taken away."""
    get_run_logger().info("The last line.")


def _write(path: str, found: object) -> None:
    """All at once: the test polls for the file."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(found))
    part.replace(path)

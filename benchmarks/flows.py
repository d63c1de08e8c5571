"""Flows that the benchmarks start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from prefect import flow


@flow
def first_line(stamp: str) -> None:
    """Write the time of the flow's first line to the file `stamp`."""
    now = time.time()
    Path(stamp).write_text(f"{now} {torch.__version__}")


@flow
def hold(stamp: str) -> None:
    """Write the process id to the file `stamp`, then wait to be stopped."""
    Path(stamp).write_text(str(os.getpid()))
    time.sleep(600)

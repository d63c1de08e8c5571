"""Flows that the benchmarks start."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from prefect import flow


@flow
def first_line(stamp: str) -> None:
    """Write the time of the flow's first line to the file `stamp`."""
    now = time.time()
    Path(stamp).write_text(f"{now} {torch.__version__}")

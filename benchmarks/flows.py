"""Flows that the benchmarks start."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from prefect import flow
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.results import EpochMetrics, JobResult


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


@flow
def sleeping_trial(number: int, until_epoch: int, seconds: float, result: str) -> None:
    """Sleep, then write what a trial leaves behind to the file `result`."""
    time.sleep(seconds)
    metrics = {"value": float(number)}
    epoch = EpochMetrics(epoch=until_epoch, max_epoch=until_epoch, metrics=metrics, seconds=seconds)
    record = JobResult(action=Action.TRAIN, uri="", history=[epoch], latest_epoch=until_epoch)
    Path(result).write_text(record.model_dump_json())

"""A real Prefect server and real workers, in processes of their own, and what tests ask of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, Log, State

FLOWS = Path(__file__).with_name("runs.py")
DEADLINE_S = 40.0

T = TypeVar("T")


def eventually(look: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
    """Return the first true answer of `look`."""
    end = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class Process:
    """A process of the yard and what it says."""

    popen: subprocess.Popen[bytes]
    log: Path

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            pytest.fail(f"did not stop: {self.log.read_text()}")


def start_module(module: str, *arguments: str, environment: dict[str, str], log: Path) -> Process:
    command = [sys.executable, "-m", f"prefect_trainyard.deployments.{module}", *arguments]
    with log.open("ab") as output:
        popen = subprocess.Popen(
            command, env=os.environ | environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT
        )
    return Process(popen, log)


@dataclass
class Station:
    """A Prefect server with one work pool, and what tests ask of it."""

    home: Path
    environment: dict[str, str]
    client: SyncPrefectClient
    workers: list[Process] = field(default_factory=list)

    def start_worker(self, pool: str, **settings: str) -> Process:
        ready = self.home / f"ready-{uuid.uuid4()}"
        environment = self.environment | {
            "TRAINYARD_WORKER_PRELOAD": "prefect.flow_engine,torch",
            "TRAINYARD_WORKER_SCRATCH": str(self.home / "scratch"),
            "TRAINYARD_WORKER_READY_FILE": str(ready),
            "TRAINYARD_WORKER_CPUS": "2",
            "TRAINYARD_WORKER_GPUS": "7,9",
            **{f"TRAINYARD_WORKER_{name.upper()}": value for name, value in settings.items()},
        }
        worker = start_module("worker", "--pool", pool, environment=environment, log=self.home / f"{pool}.log")
        self.workers.append(worker)
        eventually(lambda: ready.exists() or worker.popen.poll() is not None)
        assert ready.exists(), worker.log.read_text()
        return worker

    def submit(
        self, flow: str, pool: str = "trainyard", parameters: dict[str, Any] | None = None, **job: Any
    ) -> FlowRun:
        flow_id = self.client.create_flow_from_name(flow)
        deployment_id = self.client.create_deployment(
            flow_id,
            f"{flow}-{pool}",
            entrypoint=f"{FLOWS}:{flow}",
            work_pool_name=pool,
            enforce_parameter_schema=False,
        )
        return self.client.create_flow_run_from_deployment(deployment_id, parameters=parameters, job_variables=job)

    def state(self, run: FlowRun) -> State[Any]:
        state = self.client.read_flow_run(run.id).state
        assert state is not None
        return state

    def wait(self, run: FlowRun, name: str) -> State[Any]:
        """Wait for a state by its name; any other final state is a failure."""

        def look() -> State[Any] | None:
            state = self.state(run)
            assert state.name == name or not state.is_final(), f"{state.name}: {state.message}"
            return state if state.name == name else None

        return eventually(look)  # type: ignore[return-value]

    def logs(self, run: FlowRun) -> list[Log]:
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
        from prefect.client.schemas.sorting import LogSort

        found: list[Log] = []
        while True:
            page = self.client.read_logs(
                LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])),
                limit=200,
                offset=len(found),
                sort=LogSort.TIMESTAMP_ASC,
            )
            found += page
            if len(page) < 200:
                return found


def read(out: Path) -> Any:
    """Wait for what a run writes."""
    eventually(out.exists)
    return json.loads(out.read_text())

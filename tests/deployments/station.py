"""A real Prefect server and real workers, in processes of their own, and what tests ask of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
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


class Wire:
    """A port that leads to another one, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._whole = threading.Event()
        self._whole.set()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End what is open, and let nothing through any more."""
        self._whole.clear()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._whole.is_set():
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(1 << 16):
                target.sendall(received)
            target.shutdown(socket.SHUT_WR)


@dataclass
class Station:
    """A Prefect server with one work pool, and what tests ask of it."""

    home: Path
    environment: dict[str, str]
    client: SyncPrefectClient
    workers: list[Process] = field(default_factory=list)

    def start_worker(self, pool: str, *, api_url: str | None = None, **settings: str) -> Process:
        ready = self.home / f"ready-{uuid.uuid4()}"
        environment = self.environment | {
            "TRAINYARD_WORKER_PRELOAD": "prefect.flow_engine,torch",
            "TRAINYARD_WORKER_SCRATCH": str(self.home / "scratch"),
            "TRAINYARD_WORKER_READY_FILE": str(ready),
            "TRAINYARD_WORKER_CPUS": "2",
            "TRAINYARD_WORKER_GPUS": "7,9",
            **({"PREFECT_API_URL": api_url} if api_url else {}),
            **{f"TRAINYARD_WORKER_{name.upper()}": value for name, value in settings.items()},
        }
        worker = start_module("worker", "--pool", pool, environment=environment, log=self.home / f"{pool}.log")
        self.workers.append(worker)
        eventually(lambda: ready.exists() or worker.popen.poll() is not None)
        assert ready.exists(), worker.log.read_text()
        return worker

    def submit(
        self,
        flow: str,
        pool: str = "trainyard",
        parameters: dict[str, Any] | None = None,
        *,
        state: State[Any] | None = None,
        queue: str | None = None,
        **job: Any,
    ) -> FlowRun:
        flow_id = self.client.create_flow_from_name(flow)
        deployment_id = self.client.create_deployment(
            flow_id,
            f"{flow}-{pool}",
            entrypoint=f"{FLOWS}:{flow}",
            work_pool_name=pool,
            enforce_parameter_schema=False,
        )
        return self.client.create_flow_run_from_deployment(
            deployment_id, parameters=parameters, state=state, work_queue_name=queue, job_variables=job
        )

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

    def states(self, run: FlowRun) -> list[dict[str, Any]]:
        """Return all states of a run, oldest first."""
        found = self.client.request("GET", "/flow_run_states/", params={"flow_run_id": str(run.id)}).json()
        return sorted(found, key=lambda state: state["timestamp"])

    def history(self, run: FlowRun) -> str:
        """Return the names and messages of all states of a run, oldest first."""
        return "\n".join(f"{state['name']}: {state['message'] or ''}" for state in self.states(run))

    def labels(self, run: FlowRun) -> dict[str, Any]:
        return self.client.read_flow_run(run.id).labels

    def set_labels(self, run: FlowRun, labels: dict[str, Any]) -> None:
        self.client.request("PATCH", f"/flow_runs/{run.id}/labels", json=labels)  # type: ignore[arg-type]

    def beat(self, worker: str, pool: str = "trainyard") -> None:
        """Let the server hear of a worker that is not there."""
        body = {"name": worker, "heartbeat_interval_seconds": 5}
        self.client.request("POST", f"/work_pools/{pool}/workers/heartbeat", json=body)  # type: ignore[arg-type]

    def make_queue(self, pool: str, name: str, priority: int) -> None:
        body = {"name": name, "priority": priority}
        self.client.request("POST", f"/work_pools/{pool}/queues", json=body)  # type: ignore[arg-type]

    @staticmethod
    def later(seconds: float) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    @staticmethod
    def time(text: str) -> datetime:
        return datetime.fromisoformat(text)

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


def read_again(out: Path, pids: list[int]) -> list[int]:
    """Wait for the processes of the next attempt of a run that has written `pids`."""

    def look() -> list[int] | None:
        found: list[int] = json.loads(out.read_text())["pids"]
        return found if found != pids else None

    return eventually(look)  # type: ignore[return-value]

"""Keeps the parts of a yard running: Prefect server, MLflow server, facade and workers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..schemas.errors import Unavailable
from ..schemas.jobs import COMMAND_POOL_VARIABLE, KEY_FILE_VARIABLE
from ..schemas.sweeps import STUDIES_VARIABLE
from .environment import LOOPBACK, mlflow_environment, prefect_environment
from .home import Home, ProcessRecord, YardState, free_port
from .settings import YardSettings, catalog_url, storage_url

POLL_S = 0.1
READY_TIMEOUT_S = 120.0
#: What each part gets to end by itself. A worker first gives its jobs their grace.
STOP_S = 8.0
#: Pause before a part that died is started again; doubled each time it dies young.
BACKOFF_S, MAX_BACKOFF_S, YOUNG_S = 0.25, 30.0, 20.0

_PR_SET_PDEATHSIG = 1


@dataclass(slots=True, kw_only=True)
class Part:
    """One process of the yard.

    It is ready when its URL answers or its ready file exists; a `task` when it has ended well.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]
    health_url: str | None = None
    ready_file: Path | None = None
    task: bool = False
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    backoff_s: float = BACKOFF_S
    start_again_at: float = 0.0

    @property
    def done(self) -> bool:
        """Whether a task has ended well."""
        return self.task and self.process is not None and self.process.poll() == 0

    def is_ready(self) -> bool:
        if self.task:
            return self.done
        if self.process is None or self.process.poll() is not None:
            return False
        if self.ready_file is not None:
            return self.ready_file.exists()
        return self.health_url is None or answers(self.health_url)


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """Return whether a GET of `url` succeeds."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 - our own http URLs
            return bool(response.status < 400)
    except (urllib.error.URLError, OSError):
        return False


class Supervisor:
    """Runs in one thread: starts the parts, starts again what died, stops all in order."""

    def __init__(self, settings: YardSettings) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        self._stopping = False
        self.parts: list[Part] = []

    def run(self) -> None:
        """Run the yard until SIGTERM or SIGINT.

        Raises:
            Conflict: a yard is already up in this home.
        """
        self.home.create()
        lock = self.home.lock()
        self._end_leftovers()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.parts, self.state = self._plan()
        try:
            self._watch()
        finally:
            self._stop_parts()
            self.home.run.joinpath("yard.json").unlink(missing_ok=True)
            os.close(lock)

    def _plan(self) -> tuple[list[Part], YardState]:
        settings, home = self.settings, self.home
        prefect_port = settings.prefect_port or free_port()
        mlflow_port = settings.mlflow_port or free_port()
        port = settings.port or free_port(settings.host)
        prefect_url, mlflow_url = f"http://{LOOPBACK}:{prefect_port}", f"http://{LOOPBACK}:{mlflow_port}"
        api_url = f"http://{settings.host}:{port}"
        shared = {
            **prefect_environment(home.path / "prefect", prefect_port, database_url=settings.prefect_database_url),
            **mlflow_environment(mlflow_port),
            "TRAINYARD_HOME": str(home.path),
            "TRAINYARD_STORAGE_URL": storage_url(settings),
            KEY_FILE_VARIABLE: str(home.path / "secrets.key"),
            **({COMMAND_POOL_VARIABLE: settings.command_pool} if settings.command_pool else {}),
            **({STUDIES_VARIABLE: settings.optuna_database_url} if settings.optuna_database_url else {}),
            # For the facade, too: it looks after the runs of dead workers.
            "TRAINYARD_WORKER_SCRATCH": str(home.path / "work"),
            **(
                {"TRAINYARD_STORAGE_ENDPOINT_URL": settings.storage_endpoint_url}
                if settings.storage_endpoint_url
                else {}
            ),
        }
        mlflow_store = settings.mlflow_database_url or f"sqlite:///{home.path}/mlflow.db"
        facade = {
            **shared,
            "TRAINYARD_API_DATABASE_URL": catalog_url(settings),
            "TRAINYARD_API_MLFLOW_URL": mlflow_url,
            "TRAINYARD_API_PREFECT_API_URL": f"{prefect_url}/api",
            "TRAINYARD_API_STORAGE_URL": storage_url(settings),
            "TRAINYARD_API_HOME": str(home.path),
            **({"TRAINYARD_API_COMMAND_POOL": settings.command_pool} if settings.command_pool else {}),
            **(
                {"TRAINYARD_API_STORAGE_ENDPOINT_URL": settings.storage_endpoint_url}
                if settings.storage_endpoint_url
                else {}
            ),
        }
        parts = [
            Part(
                name="prefect",
                command=_module("prefect_server", "--host", LOOPBACK, "--port", str(prefect_port)),
                environment=shared,
                health_url=f"{prefect_url}/api/health",
            ),
            Part(
                name="mlflow",
                command=_module(
                    "mlflow_server",
                    *("--host", LOOPBACK, "--port", str(mlflow_port), "--backend-store-uri", mlflow_store),
                    *("--artifacts-destination", str(home.path / "mlflow")),
                ),
                environment=shared,
                health_url=f"{mlflow_url}/health",
            ),
            Part(
                name="api",
                command=[sys.executable, "-m", "prefect_trainyard.api", "--host", settings.host, "--port", str(port)],
                environment=facade,
                health_url=f"{api_url}/api/v1/readiness",
            ),
        ]
        parts.append(Part(name="deploy", command=_module("registration"), environment=shared, task=True))
        for number in range(1, settings.workers + 1):
            ready_file = home.run / f"worker-{number}.ready"
            parts.append(
                Part(
                    name=f"worker-{number}",
                    command=_module(
                        "worker",
                        *("--pool", "trainyard", "--cpus", str(settings.cpus), "--gpus", settings.gpus),
                    ),
                    environment={
                        **shared,
                        "TRAINYARD_WORKER_READY_FILE": str(ready_file),
                        "TRAINYARD_WORKER_GRACE_S": str(settings.cancel_grace_s),
                        # Threads of one job must not spin while those of another need the core.
                        "OMP_WAIT_POLICY": "PASSIVE",
                    },
                    ready_file=ready_file,
                )
            )
        return parts, YardState(
            supervisor=ProcessRecord.of(os.getpid()), api_url=api_url, prefect_url=prefect_url, mlflow_url=mlflow_url
        )

    def _watch(self) -> None:
        for part in self.parts:
            self._start(part)
        while not self._stopping:
            # why before the loop: a task that ends meanwhile must not stay in the state as a part that is down.
            is_ready = all(part.is_ready() for part in self.parts)
            for part in self.parts:
                self._restart_if_dead(part)
            if is_ready and not self.state.ready:
                self.state.ready = True
                self.home.write_state(self.state)
            time.sleep(POLL_S)

    def _restart_if_dead(self, part: Part) -> None:
        now = time.monotonic()
        if part.process is None:
            if now >= part.start_again_at:
                self._start(part)
            return
        if part.process.poll() is None:
            return
        if part.done:
            self.state.parts.pop(part.name, None)
            return
        code = part.process.returncode
        part.backoff_s = BACKOFF_S if now - part.started > YOUNG_S else min(part.backoff_s * 2, MAX_BACKOFF_S)
        part.start_again_at = now + part.backoff_s
        part.process = None
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        log = self.home.logs / f"{part.name}.log"
        print(f"{part.name} ended ({reason}); starting it again in {part.backoff_s:.1f} s, see {log}", flush=True)

    def _start(self, part: Part) -> None:
        if part.ready_file is not None:
            part.ready_file.unlink(missing_ok=True)
        with (self.home.logs / f"{part.name}.log").open("ab") as log:
            part.process = subprocess.Popen(
                part.command,
                cwd=self.home.path / "work",
                env={**_inherited(), **part.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        part.started = time.monotonic()
        self.state.parts[part.name] = ProcessRecord.of(part.process.pid)
        self.home.write_state(self.state)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _stop_parts(self) -> None:
        """Stop the workers first, so that they can still tell Prefect what became of their jobs."""
        grace = STOP_S + self.settings.cancel_grace_s
        for group in (
            [p for p in self.parts if p.name.startswith("worker")],
            [p for p in self.parts if p.name in ("api", "deploy")],
            [p for p in self.parts if p.name in ("prefect", "mlflow")],
        ):
            alive = [p.process for p in group if p.process is not None]
            for process in alive:
                _signal_group(process.pid, signal.SIGTERM, whole=False)
            deadline = time.monotonic() + grace
            for process in alive:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                _signal_group(process.pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """End parts of a yard whose supervisor was killed and which did not end by themselves."""
        state = self.home.read_state()
        if state is None:
            return
        for record in state.parts.values():
            if (process := record.find()) is not None:
                _signal_group(process.pid, signal.SIGTERM, whole=False)
                _, alive = psutil.wait_procs([process], timeout=STOP_S)
                for left in alive:
                    _signal_group(left.pid, signal.SIGKILL)


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"prefect_trainyard.deployments.{name}", *arguments]


def _inherited() -> dict[str, str]:
    """Return our environment without settings of other yards and of the user's own Prefect and MLflow.

    Settings of the facade, of the workers and of logs are kept: what belongs to the yard itself is set over them.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("TRAINYARD_API_", "TRAINYARD_LOG_", "TRAINYARD_WORKER_"))
        or not name.startswith(("PREFECT_", "MLFLOW_", "TRAINYARD_"))
    }


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the supervisor dies, so that `kill -9` of it leaves nothing behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal_group(pid: int, number: signal.Signals, *, whole: bool = True) -> None:
    try:
        if whole:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return


def wait_until_ready(home: Home, process: subprocess.Popen[bytes], timeout_s: float = READY_TIMEOUT_S) -> YardState:
    """Return the state of a yard that was just started, when every part answers.

    Raises:
        Unavailable: the supervisor ended or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = home.read_state()
        if state is not None and state.ready and state.supervisor.pid == process.pid:
            return state
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    raise Unavailable(f"The yard did not start within {timeout_s:.0f} s.", hint=f"Its logs are in {home.logs}.")


def part_health(state: YardState) -> dict[str, bool]:
    """Return which parts of a running yard answer at this moment."""
    urls = {
        "api": f"{state.api_url}/api/v1/health",
        "prefect": f"{state.prefect_url}/api/health",
        "mlflow": f"{state.mlflow_url}/health",
    }
    return {
        # why so long: a busy machine is slow, which is not the same as down.
        name: record.find() is not None and (name not in urls or answers(urls[name], timeout_s=10.0))
        for name, record in state.parts.items()
    }

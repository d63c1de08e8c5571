"""What a child of the forkserver does: become a process of its own, then run one flow run."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import os
import random
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict
from uuid import UUID

import httpx
from prefect.client.schemas.objects import FlowRun, State

from ..tasks.forks import tolerate_forks
from .prefect_internals import refresh_settings, run_engine, run_hooks

#: Exit status of a run whose Prefect server was away: EX_TEMPFAIL of sysexits.h.
SERVER_AWAY = 75

#: A process has so long to end once its run is over.
_FAREWELL_S = 5.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


class ChildJob(TypedDict, total=False):
    """What the worker asks of a child."""

    role: Literal["run", "hooks", "give_back"]
    environment: dict[str, str]
    cwd: str
    cpus: int
    flow_run: dict[str, Any]
    state: dict[str, Any]
    spools: dict[str, str]
    """For `give_back`: the ids of flow runs, each with the spool of its log."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies, so that none escapes by forking twice."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_strays(is_stray: Callable[[int], bool]) -> None:
    """Kill those children of this process that are adopted and whose run has ended."""
    # Again and again: the children of one that was killed become ours in their turn.
    while strays := list(filter(is_stray, _children())):
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _children() -> list[int]:
    found: list[int] = []
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
    return found


def is_of_run(pid: int, flow_run_ids: Collection[str]) -> bool:
    """Tell by its environment whether a process was started by one of these runs."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return any(f"PREFECT__FLOW_RUN_ID={id}\0".encode() in environment for id in flow_run_ids)


def main(job: dict[str, Any]) -> None:
    """Do the job and end the process."""
    parent = os.getppid()
    status = 1
    try:
        _become_own_process(job, parent)
        _do(job)
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        if status != 0 and _is_server_away(leave):
            status = SERVER_AWAY
    except BaseException as error:  # noqa: BLE001 - nothing may unwind into the forkserver's frames
        if not isinstance(error, KeyboardInterrupt):
            sys.excepthook(type(error), error, error.__traceback__)
        if _is_server_away(error):
            status = SERVER_AWAY
    finally:
        _leave(status)


def _is_server_away(error: BaseException | None) -> bool:
    """Tell whether the engine gave up because its server does not answer. Errors of the flow itself never get here."""
    while error is not None:
        if isinstance(error, httpx.TransportError):
            return True
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code >= 500:
            return True
        error = error.__cause__ or error.__context__
    return False


def _become_own_process(job: dict[str, Any], parent: int) -> None:
    if job["role"] != "give_back":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    prefect_changed = _prefect_settings(os.environ) != _prefect_settings(job["environment"])
    _replace_environment(job["environment"])
    os.chdir(job["cwd"])
    _reseed()
    _limit_threads(job.get("cpus", 1))

    tolerate_forks()
    if prefect_changed:  # it takes 0.15 s
        refresh_settings()


def _prefect_settings(environment: Mapping[str, str]) -> dict[str, str]:
    # Two underscores mark what Prefect tells a run, not a setting.
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("PREFECT_") and not name.startswith("PREFECT__")
    }


def _replace_environment(environment: dict[str, str]) -> None:
    known = set(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it was looked up in the old environment
    # The interpreter read PYTHONPATH when it started; what the job adds to it has to be added by hand.
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in known]
    sys.path[:0] = added


def _reseed() -> None:
    """Give up the random states that all children share by the fork."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()


def _limit_threads(cpus: int) -> None:
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(cpus)
    if (threadpoolctl := sys.modules.get("threadpoolctl")) is not None:
        threadpoolctl.threadpool_limits(cpus, user_api="blas")


def _do(job: dict[str, Any]) -> None:
    if job["role"] == "give_back":
        # Late: only the last child of a dead worker needs it.
        from .handover import give_back_by_id

        spools = {UUID(id): Path(spool) for id, spool in job["spools"].items()}
        asyncio.run(give_back_by_id(spools, "The worker of this run died."))
        return
    flow_run = FlowRun.model_validate(job["flow_run"])
    if job["role"] == "hooks":
        run_hooks(flow_run, State.model_validate(job["state"]))
    else:
        run_engine(flow_run)


def _leave(status: int) -> None:
    """End as an interpreter does, logs shipped and all, without taking the libraries apart piece by piece.

    Prefect tries for 20 s to ship the last lines and events to a server that is away. The run is over by then and its
    log is in the storage, so its process does not stay for them.
    """
    timer = threading.Timer(_FAREWELL_S, os._exit, [status])
    timer.daemon = True
    with contextlib.suppress(RuntimeError):  # no more threads: then nothing else can be going on either
        timer.start()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)

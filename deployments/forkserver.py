"""The process that flow runs are forked from: it imports the heavy libraries once, then only forks.

It must stay free of Python threads, OpenMP regions and CUDA, so it imports and nothing more; a
child of a process that had used any of them may hang. Not `multiprocessing`'s forkserver: that one
re-runs the worker's `__main__` in each child and passes its start method on to DataLoaders.

Speaks JSON lines over the socket that it inherits from the worker:

    worker -> {"start": key, "job": ChildJob}
    worker <- {"ready": true, "failed": {module: error}}, {"started": key, "pid": 1}, {"exited": key, "status": 0}

When the worker is gone it kills every run and puts the runs back to be scheduled again.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
from typing import Any

from ..flows.joblog import SPOOL_VARIABLE
from .child import adopt_orphans, kill_strays
from .child import main as run_child

_CHUNK_BYTES = 1 << 16

#: What Prefect imports late in every run, 40 ms of it.
_PREFECT_MODULES = [
    "anyio._backends._asyncio",
    "prefect._internal.observers",
    "prefect.engine",
    "prefect.flow_engine",
    "prefect.locking._filelock",
    "rich._emoji_codes",
]


def preload(modules: list[str]) -> dict[str, str]:
    """Import what can be imported; return what could not be, with the error."""
    failed = {}
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken optional module must not stop the worker
            failed[name] = f"{type(error).__name__}: {error}"
    return failed


class ForkServer:
    """Forks on request and reports what becomes of the children."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._running: dict[int, str] = {}
        #: The spool of the log of each run.
        self._spools: dict[str, str] = {}
        self._received = b""
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    def serve(self) -> dict[str, Any] | None:
        """Serve until the worker is gone; in a child return its job instead."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._link, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake_read in ready:
                    os.read(self._wake_read, _CHUNK_BYTES)
                self._reap()
                if self._link in ready:
                    try:
                        data = self._link.recv(_CHUNK_BYTES)
                    except ConnectionResetError:
                        data = b""
                    if not data:
                        return self._abandon()
                    for line in self._lines(data):
                        job = self._fork(json.loads(line))
                        if job is not None:
                            return job

    def _lines(self, data: bytes) -> list[bytes]:
        *lines, self._received = (self._received + data).split(b"\n")
        return lines

    def _fork(self, request: dict[str, Any]) -> dict[str, Any] | None:
        job: dict[str, Any] = request["job"]
        grouped_read, grouped_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            for descriptor in (grouped_read, grouped_write, self._wake_read, self._wake_write):
                os.close(descriptor)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._link.close()
            return job
        os.close(grouped_write)
        # Ends when the child leads a group of its own, so that nobody signals a group that is not there yet.
        os.read(grouped_read, 1)
        os.close(grouped_read)
        self._running[pid] = request["start"]
        if (spool := job["environment"].get(SPOOL_VARIABLE)) is not None:
            self._spools[request["start"]] = spool
        self._send({"started": request["start"], "pid": pid})
        return None

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            key = self._running.pop(pid, None)
            if key is not None:
                # Before the zombie is reaped: until then nobody else can have its group id.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if key is not None:
                self._spools.pop(key, None)
                kill_strays(lambda child: child not in self._running)
                self._send({"exited": key, "status": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, Any]) -> None:
        # A worker that is gone is noticed by the next read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.sendall(json.dumps(message).encode() + b"\n")

    def _abandon(self) -> dict[str, Any] | None:
        """Kill all runs; in a child return the job that gives their flow runs back."""
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self._running:
            os.waitpid(pid, 0)
        kill_strays(lambda _: True)
        if not self._spools:
            return None
        heir = os.fork()
        if heir == 0:
            signal.set_wakeup_fd(-1)
            return {"role": "give_back", "spools": self._spools, "environment": dict(os.environ), "cwd": "/"}
        # While it or we live, no reaper takes the matter in hand.
        os.waitpid(heir, 0)
        return None


def main() -> None:
    """Preload the modules named in `argv[2:]`, then serve the socket whose descriptor is `argv[1]`."""
    link = socket.socket(fileno=int(sys.argv[1]))
    link.set_inheritable(False)
    # The worker decides when runs end; a Ctrl-C in its terminal reaches it, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    failed = preload([*_PREFECT_MODULES, *sys.argv[2:]])
    if threading.active_count() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate())
        sys.exit(f"A preloaded module started a thread ({names}). Take it out of TRAINYARD_WORKER_PRELOAD.")
    adopt_orphans()
    # Keeps the collector of the children from touching, and so copying, every page of ours.
    gc.collect()
    gc.freeze()
    server = ForkServer(link)
    link.sendall(json.dumps({"ready": True, "failed": failed}).encode() + b"\n")
    job = server.serve()
    if job is not None:
        run_child(job)


if __name__ == "__main__":
    main()

"""The worker's side of the forkserver: start it, ask it for children, hear of their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from prefect.logging import get_logger

from ..schemas.errors import Unavailable
from .child import ChildJob, adopt_orphans, is_of_run, kill_strays

logger = get_logger("trainyard.worker.forkserver")

_LINE_BYTES_MAX = 64 << 20

#: Seconds after which a process that should have become our child is taken for somebody else's.
_ADOPTION_S = 2.0


@dataclass(slots=True, eq=False)
class Fork:
    """A child of the forkserver, leader of its process group."""

    pid: int
    returncode: int | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> int:
        """Return the exit status, negative for a signal; by then the whole group is gone."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def end(self, status: int) -> None:
        self.returncode = status
        self._ended.set()


class ForkServerClient:
    """One forkserver, started on entry and again whenever it dies."""

    def __init__(self, preload: list[str], environment: dict[str, str]) -> None:
        self._preload = preload
        self._environment = environment
        self._starting: dict[str, asyncio.Future[Fork]] = {}
        self._forks: dict[str, Fork] = {}
        self._server: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._warm = asyncio.Event()
        self._lock = asyncio.Lock()

    async def start_server(self) -> None:
        """Start the process; `wait_until_warm` tells when its imports are done."""
        # Should the forkserver be killed, what its runs have started comes to us, to be killed as well.
        adopt_orphans()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", f"{__package__}.forkserver", str(theirs.fileno()), *self._preload]
            self._server = await asyncio.create_subprocess_exec(
                *command,
                env=self._environment,
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_LINE_BYTES_MAX)
        self._reading = asyncio.create_task(self._read(reader))

    async def wait_until_warm(self) -> None:
        """Wait for the imports.

        Raises:
            Unavailable: the forkserver ended before it was ready.
        """
        assert self._reading is not None
        warm = asyncio.create_task(self._warm.wait())
        await asyncio.wait([warm, self._reading], return_when=asyncio.FIRST_COMPLETED)
        if not warm.done():
            warm.cancel()
            raise Unavailable("The forkserver of the worker ended while it started.", hint="See the worker's output.")

    async def start(self, key: str, job: ChildJob) -> Fork:
        """Fork a child for `job`; `key` is unique among those that run, the flow run's id for a run."""
        async with self._lock:
            if self._reading is None or self._reading.done():
                await self.start_server()
        await self.wait_until_warm()
        assert self._writer is not None
        started: asyncio.Future[Fork] = asyncio.get_running_loop().create_future()
        self._starting[key] = started
        self._writer.write(json.dumps({"start": key, "job": job}).encode() + b"\n")
        await self._writer.drain()
        return await started

    async def close(self) -> None:
        """End the forkserver, which kills every child that is left."""
        if self._writer is not None:
            self._writer.close()
        if self._server is not None:
            await self._server.wait()
        if self._reading is not None:
            await self._reading

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(ConnectionResetError):
                async for line in reader:
                    self._handle(json.loads(line))
        finally:
            await self._lost()

    def _handle(self, message: dict[str, Any]) -> None:
        match message:
            case {"ready": True, "failed": failed}:
                for module, error in failed.items():
                    logger.warning("The forkserver could not import %s: %s", module, error)
                self._warm.set()
            case {"started": key, "pid": pid}:
                fork = self._forks[key] = Fork(pid)
                started = self._starting.pop(key)
                if not started.done():
                    started.set_result(fork)
            case {"exited": key, "status": status}:
                self._forks.pop(key).end(status)

    async def _lost(self) -> None:
        """End what the forkserver took with it: its children die with it, by the kernel's hand."""
        self._warm.clear()
        for started in self._starting.values():
            if not started.done():
                started.set_exception(Unavailable("The forkserver of the worker died."))
        self._starting.clear()
        forks, self._forks = self._forks, {}
        for fork in forks.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(fork.pid, signal.SIGKILL)
            await _reap(fork.pid)
        # Not every child of this process is ours: it may be part of a larger one.
        kill_strays(lambda child: is_of_run(child, forks))
        for fork in forks.values():
            fork.end(-signal.SIGKILL)


async def _reap(pid: int) -> None:
    """Wait for a killed process that is about to become our child, and its own children with it."""
    end = asyncio.get_running_loop().time() + _ADOPTION_S
    while asyncio.get_running_loop().time() < end:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:  # noqa: ASYNC222 - it does not wait
                return
        await asyncio.sleep(0.02)

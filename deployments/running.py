"""The process of one run: stop it gently or at once, freeze it, know how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import psutil

from .forks import Fork


class RunningProcess:
    """A child of the forkserver, leader of a process group of its own.

    The leader alone gets the SIGTERM: a DataLoader worker that dies of a signal raises an error in the leader, in the
    middle of the checkpoint that it is writing. SIGKILL is for the whole group.
    """

    def __init__(self, fork: Fork, is_concluded: Callable[[], bool], grace_s: float) -> None:
        self._fork = fork
        self._is_concluded = is_concluded
        self._grace_s = grace_s
        self._stopping: asyncio.Task[None] | None = None
        self._frozen = False
        self.is_disowned = False
        """Whether somebody else has the run by now, so that its state is none of our business."""

    @property
    def pid(self) -> int:
        return self._fork.pid

    @property
    def is_stopped(self) -> bool:
        """Whether we have asked it to end."""
        return self._stopping is not None

    async def wait(self) -> int:
        """Return the exit status, negative for a signal; by then the whole group is gone."""
        return await self._fork.wait()

    def stop(self) -> None:
        """Send SIGTERM now, and SIGKILL to the whole group after the grace. Once is enough."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())

    def disown(self) -> None:
        """Kill it at once: the run is somebody else's."""
        self.is_disowned = True
        self._signal_group(signal.SIGKILL)

    def freeze(self) -> None:
        """Let it do nothing until `thaw`."""
        if not self._frozen:
            self._frozen = True
            self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._frozen:
            self._frozen = False
            self._signal_all(signal.SIGCONT)

    async def _stop(self) -> None:
        # One that has told its last state is about to end, and may be busy with its hooks.
        if not self._is_concluded() and self._fork.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.wait()), self._grace_s)
        self._signal_group(signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        """Signal the group and what has left it: commands of users run in groups of their own."""
        self._signal_group(number)
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _signal_group(self, number: signal.Signals) -> None:
        if self._fork.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

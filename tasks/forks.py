"""Mends on which processes that a run forks depend, such as DataLoader workers. Private names: see the test."""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import os
from typing import Any

from prefect._internal.concurrency.services import _QueueServiceBase

_stock_drain = _QueueServiceBase._drain


def _drain(self: _QueueServiceBase[Any], at_exit: bool = False) -> concurrent.futures.Future[bool]:
    if self._done_event is not None:
        return _stock_drain(self, at_exit)
    # A copy of the parent's service after a fork, reset by Prefect: it has nothing to send.
    drained: concurrent.futures.Future[bool] = concurrent.futures.Future()
    drained.set_result(True)
    return drained


def _forget_pool_threads() -> None:
    concurrent.futures.thread._threads_queues.clear()  # type: ignore[attr-defined]


def tolerate_forks() -> None:
    """Let processes that a run forks, such as DataLoader workers, end with status 0.

    Two things fail at the exit of a forked process, so that it ends with status 1, and torch fails the run for it.
    Prefect 3.8 resets its services after a fork but leaves their exit handlers. And the exit handler of thread pools,
    where Prefect runs submitted tasks, joins the threads of the parent, among them the one that forked: itself.
    """
    if _QueueServiceBase._drain is _drain:
        return
    _QueueServiceBase._drain = _drain  # type: ignore[method-assign]
    os.register_at_fork(after_in_child=_forget_pool_threads)

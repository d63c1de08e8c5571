"""A mend for Prefect, on which DataLoader workers inside a run depend. Private names: see its test."""

from __future__ import annotations

import concurrent.futures
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


def tolerate_forks() -> None:
    """Let processes that a run forks, such as DataLoader workers, end with status 0.

    After a fork Prefect 3.8 resets its services but leaves their exit handlers, which then fail: each
    worker ends with status 1, and torch fails the run for it.
    """
    _QueueServiceBase._drain = _drain  # type: ignore[method-assign]

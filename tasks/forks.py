"""A mend for Prefect, on which DataLoader workers inside a run depend. Private names: see its test."""

from __future__ import annotations

from typing import Any

from prefect._internal.concurrency.services import _QueueServiceBase

_stock_at_exit = _QueueServiceBase._at_exit


def _at_exit(self: _QueueServiceBase[Any]) -> None:
    if self._done_event is not None:
        _stock_at_exit(self)


def tolerate_forks() -> None:
    """Let processes that a run forks, such as DataLoader workers, end with status 0.

    After a fork Prefect 3.8 resets its services but leaves their exit handlers, which then fail: each
    worker ends with status 1, and torch fails the run for it.
    """
    _QueueServiceBase._at_exit = _at_exit  # type: ignore[method-assign]

"""Waiting for a service that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ..schemas.errors import Unavailable

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


def patiently(call: Callable[[], T], timeout_s: float, tell: Callable[[Unavailable], object] | None = None) -> T:
    """Return what `call` returns, trying again for `timeout_s` seconds while it raises Unavailable.

    `tell` hears once that the service is away.

    Raises:
        Unavailable: it still was when the time was over.
    """
    deadline, pause = time.monotonic() + timeout_s, _FIRST_PAUSE_S
    while True:
        try:
            return call()
        except Unavailable as error:
            if time.monotonic() + pause > deadline:
                raise
            if tell is not None:
                tell(error)
                tell = None
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)

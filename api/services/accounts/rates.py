"""How often somebody may do something: so often in a row, then only as fast as the budget fills up again."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from ....schemas.errors import TooManyRequests

_KNOWN_MAX = 10_000


class Budget:
    """A budget for each of many: `burst` at once, `per_s` in the long run (the generic cell rate algorithm)."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float] = time.monotonic) -> None:
        self._step_s = 1 / per_s
        self._slack_s = burst / per_s
        self._now = now
        self._full_at: dict[Hashable, float] = {}

    def wait_s(self, who: Hashable) -> float:
        """Return how long `who` has to wait until the next spending, 0 when it may come now."""
        return max(0.0, self._full_at.get(who, 0.0) + self._step_s - self._slack_s - self._now())

    def spend(self, who: Hashable) -> None:
        """Take one from the budget of `who`, even where nothing is left."""
        now = self._now()
        if who not in self._full_at and len(self._full_at) >= _KNOWN_MAX:
            self._full_at = {other: moment for other, moment in self._full_at.items() if moment > now}
        # why: who goes on although nothing is left does not wait longer for it
        self._full_at[who] = min(max(self._full_at.get(who, now), now) + self._step_s, now + self._slack_s)


def refuse(wait_s: float) -> TooManyRequests:
    """Return the error for somebody who has to wait."""
    error = TooManyRequests("Too many requests.", hint="Wait as long as Retry-After says.")
    error.retry_after_s = wait_s
    return error

"""How far the fetching of a data set is."""

from __future__ import annotations

from enum import StrEnum


class PullState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


UNFINISHED = (PullState.WAITING, PullState.RUNNING)

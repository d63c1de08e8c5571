"""How a running action talks to whoever runs it, without knowing who that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Receives what happens inside an action. All methods return at once."""

    def log(self, message: str) -> None:
        """Take one line for the log of the job."""

    def progress(self, fraction: float, message: str) -> None:
        """Take the share of the work that is done, 0 to 1, and what is being done."""

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Take the metrics of a finished epoch (1-based) and how long it took."""

    def saved(self, paths: Sequence[Path]) -> None:
        """Take files that are complete on disk and may be published now."""

    def stop_requested(self) -> bool:
        """Return True when the action should save a checkpoint and end early.

        Whoever asks is no longer interrupted by a stop: it asks again soon, or calls `allow_interruption`.
        """

    def allow_interruption(self) -> None:
        """Let a stop interrupt what follows at once, by an exception: there is nothing new to save, or it is long."""


class SilentReporter:
    """A reporter that keeps nothing; for library use and tests."""

    def log(self, message: str) -> None: ...

    def progress(self, fraction: float, message: str) -> None: ...

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None: ...

    def saved(self, paths: Sequence[Path]) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def allow_interruption(self) -> None: ...

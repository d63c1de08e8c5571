"""Which workers are there, as of a moment ago: asked on a timer, so that no read of a job waits for it."""

from __future__ import annotations

from .runs import FlowRuns


class OnlineWorkers:
    def __init__(self, runs: FlowRuns) -> None:
        self._runs = runs
        self.names: tuple[str, ...] | None = None
        """None as long as nobody knows."""

    async def refresh(self) -> None:
        self.names = tuple(await self._runs.read_online_workers())

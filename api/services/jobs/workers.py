"""Which workers are there, as of a moment ago: asked on a timer, so that no read of a job waits for it."""

from __future__ import annotations

from ....deployments.capacity import PREFIX, Capacity, parse
from .runs import FlowRuns


class OnlineWorkers:
    def __init__(self, runs: FlowRuns) -> None:
        self._runs = runs
        self.names: tuple[str, ...] | None = None
        """None as long as nobody knows."""
        self.capacities: tuple[Capacity, ...] = ()
        """What those workers have that have told it."""

    async def refresh(self) -> None:
        self.names = tuple(await self._runs.read_online_workers())
        told = parse(await self._runs.read_variables(PREFIX))
        self.capacities = tuple(capacity for capacity in told if capacity.name in self.names)

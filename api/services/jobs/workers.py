"""Which workers are there, as of a moment ago: asked on a timer, so that no read of a job waits for it."""

from __future__ import annotations

from collections.abc import Sequence

from ....deployments.capacity import PREFIX, Capacity, parse
from ....schemas.actions import USERS_CODE, Action
from ....schemas.jobs import WORK_POOL, command_pool_name
from .runs import FlowRuns


class OnlineWorkers:
    """`command_pool` is the type of the work pool that users' code goes to, where it is not the yard's own."""

    def __init__(self, runs: FlowRuns, command_pool: str | None = None) -> None:
        self._runs = runs
        self._command_pool = command_pool_name(command_pool) if command_pool else None
        self._names: dict[str, tuple[str, ...]] = {}
        self._capacities: tuple[Capacity, ...] = ()

    async def refresh(self) -> None:
        for pool in (WORK_POOL, self._command_pool):
            if pool is not None:
                self._names[pool] = tuple(await self._runs.read_online_workers(pool))
        told = parse(await self._runs.read_variables(PREFIX))
        self._capacities = tuple(capacity for capacity in told if capacity.name in self._names[WORK_POOL])

    def names(self, action: str) -> tuple[str, ...] | None:
        """Return the workers that may take a job of an action; None as long as nobody knows."""
        return self._names.get(self._pool(action))

    def capacities(self, action: Action) -> Sequence[Capacity]:
        """Return what those of them have that have told it; workers of other types tell nothing."""
        return self._capacities if self._pool(action) == WORK_POOL else ()

    def _pool(self, action: str) -> str:
        return self._command_pool if self._command_pool is not None and action in USERS_CODE else WORK_POOL

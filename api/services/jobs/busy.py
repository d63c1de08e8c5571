"""One change of a job at a time: who stops it and who releases it must not meet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from uuid import UUID


class BusyJobs:
    """Jobs whose state is being changed by this process."""

    def __init__(self) -> None:
        self._held: set[UUID] = set()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def changing(self, ids: Collection[UUID]) -> AsyncIterator[bool]:
        """Hold all of the jobs, as soon as nobody else holds one of them; yield whether that took a wait."""
        waited = False
        while not self._held.isdisjoint(ids):
            waited = True
            await self._freed.wait()
        self._held.update(ids)
        try:
            yield waited
        finally:
            self._held.difference_update(ids)
            self._freed.set()
            self._freed = asyncio.Event()

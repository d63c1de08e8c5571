"""The background task of the facade: follows Prefect's events and heals what it missed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from uuid import UUID

from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event

from ...schemas.errors import NotFound, YardError
from ...schemas.progress import PROGRESS_EVENT
from .projection import Projection
from .runs import FlowRuns

logger = logging.getLogger(__name__)

_RUN = "prefect.flow-run."
_IGNORED = frozenset({f"{_RUN}heartbeat"})
_PAGES_AT_START, _PAGES_ON_TIMER = 50, 2
_RETRY_S = 1.0
#: Prefect drops events of a slow reader, so reading never waits for the database.
_QUEUE_MAX = 10_000


class Projector:
    """Runs until it is cancelled; no outage of Prefect, storage or database ends it."""

    def __init__(self, projection: Projection, runs: FlowRuns, interval_s: float) -> None:
        self._projection = projection
        self._runs = runs
        self._interval_s = interval_s
        self._events: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_MAX)
        self._pages = _PAGES_AT_START

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._handle())
            tasks.create_task(self._reconcile())

    async def _listen(self) -> None:
        wanted = EventFilter(event=EventNameFilter(prefix=[_RUN, PROGRESS_EVENT]))
        while True:
            try:
                async with PrefectEventSubscriber(
                    api_url=self._runs.api_url, filter=wanted, reconnection_attempts=0
                ) as subscriber:
                    self._pages = _PAGES_AT_START  # whatever happened while nobody listened
                    async for event in subscriber:
                        if event.event not in _IGNORED:
                            with contextlib.suppress(asyncio.QueueFull):  # the reconciler sees it later
                                self._events.put_nowait(event)
            except Exception as error:  # noqa: BLE001 - it must outlive every fault of the connection
                logger.info("The event stream of Prefect ended (%s); connecting again.", error or type(error).__name__)
            await asyncio.sleep(_RETRY_S)

    async def _handle(self) -> None:
        while True:
            event = await self._events.get()
            try:
                if event.event == PROGRESS_EVENT:
                    await self._projection.apply_progress(event.payload)
                elif (run_id := _run_id(event)) is not None:
                    # why: the event may be older than what Prefect knows by now, so the run is read afresh
                    await self._projection.apply(await self._runs.read(run_id))
            except NotFound:
                continue  # deleted since
            except YardError as error:
                logger.warning("An event of Prefect was not projected: %s", error)
            except Exception:
                # One event that is a bug of ours must not end the stream of all others.
                logger.exception("An event of Prefect was not projected.")

    async def _reconcile(self) -> None:
        while True:
            try:
                pages, self._pages = self._pages, _PAGES_ON_TIMER
                await self._projection.reconcile(pages=pages)
            except YardError as error:
                logger.warning("The catalog was not compared with Prefect: %s", error)
            except Exception:
                # As above: the next comparison may mend what this one could not.
                logger.exception("The catalog was not compared with Prefect.")
            await asyncio.sleep(self._interval_s)


def _run_id(event: Event) -> UUID | None:
    resource = event.resource.id
    try:
        return UUID(resource.removeprefix(_RUN)) if resource.startswith(_RUN) else None
    except ValueError:
        return None

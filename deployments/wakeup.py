"""Tells a worker at once that runs of its pool are due or have changed their state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events import Event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.logging import get_logger

logger = get_logger("trainyard.worker.wakeup")

_STATE_EVENTS = "prefect.flow-run."

#: Seconds between two looks while there is no event stream. With one, Prefect's own poll is enough.
POLL_S = 2.0


class Wakeup:
    """Calls `on_due(id)` when a run becomes SCHEDULED and `on_change(id, type)` when it enters another state.

    `on_gap()` is called after every (re)connect, since events in between are lost, and every
    `POLL_S` seconds while there is no connection. Old events may come again.
    """

    def __init__(
        self, on_due: Callable[[UUID], None], on_change: Callable[[UUID, str], None], on_gap: Callable[[], None]
    ) -> None:
        self._on_due = on_due
        self._on_change = on_change
        self._on_gap = on_gap
        self.connected = asyncio.Event()

    async def listen(self, work_pool_id: UUID) -> None:
        """Follow the events of the pool until cancelled."""
        events = EventFilter(
            # By prefix: a SCHEDULED state may have any name, AwaitingRetry and Resuming among them.
            event=EventNameFilter(prefix=[_STATE_EVENTS]),
            any_resource=EventAnyResourceFilter(id=[f"prefect.work-pool.{work_pool_id}"]),
        )
        while True:
            try:
                async with get_events_subscriber(filter=events, reconnection_attempts=0) as subscriber:
                    self.connected.set()
                    self._on_gap()
                    async for event in subscriber:
                        self._handle(event)
                logger.info("The event stream has ended; looking every %s s until it is back.", POLL_S)
            except Exception as error:  # noqa: BLE001 - whatever breaks the stream, polling goes on
                logger.info("No event stream (%s); looking every %s s until it is back.", error, POLL_S)
            self.connected.clear()
            await asyncio.sleep(POLL_S)
            self._on_gap()

    def _handle(self, event: Event) -> None:
        state = event.resource.get("prefect.state-type")
        if state is None:
            return
        try:
            flow_run_id = UUID(event.resource.id.removeprefix(_STATE_EVENTS))
        except ValueError:
            return
        if state == StateType.SCHEDULED:
            self._on_due(flow_run_id)
        else:
            self._on_change(flow_run_id, state)

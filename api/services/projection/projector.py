"""The background tasks of the facade: follow Prefect's events, heal what was missed, look after limits and accounts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from prefect.events.clients import PrefectEventSubscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.events.schemas.events import Event

from ....schemas.errors import NotFound, YardError
from ....schemas.progress import PROGRESS_EVENT
from ....schemas.sweeps import SWEEP_TAG
from ..jobs.runs import FlowRuns
from .progress import ProgressBook
from .projection import Projection

logger = logging.getLogger(__name__)

_RUN = "prefect.flow-run."
_IGNORED = frozenset({f"{_RUN}heartbeat"})
#: How Prefect names the tag of a trial, among what an event is about.
_TRIAL = f"prefect.tag.{SWEEP_TAG}:"
_RETRY_S = 1.0
#: Prefect drops events of a slow reader, so reading never waits for the database.
_QUEUE_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """Something to be done again and again; one time that fails does not end it."""

    name: str
    every_s: float
    do: Callable[[], Awaitable[object]]

    async def run(self) -> None:
        while True:
            try:
                await self.do()
            except YardError as error:
                logger.warning("%s: %s", self.name, error)
            except Exception:
                # A bug of ours in one round must not end what all later rounds would do.
                logger.exception("%s failed.", self.name)
            await asyncio.sleep(self.every_s)


class Projector:
    """Runs until it is cancelled; no outage of Prefect, storage or database ends it."""

    def __init__(
        self,
        projection: Projection,
        progress: ProgressBook,
        runs: FlowRuns,
        interval_s: float,
        chores: Sequence[Chore] = (),
    ) -> None:
        self._projection = projection
        self._progress = progress
        self._runs = runs
        self._events: asyncio.Queue[Event] = asyncio.Queue(_QUEUE_MAX)
        self._thorough = True
        compare = Chore(name="The comparison with Prefect", every_s=interval_s, do=self._reconcile)
        self._chores = [compare, *chores]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            tasks.create_task(self._handle())
            for chore in self._chores:
                tasks.create_task(chore.run(), name=chore.name)

    async def _listen(self) -> None:
        wanted = EventFilter(event=EventNameFilter(prefix=[_RUN, PROGRESS_EVENT]))
        while True:
            try:
                async with PrefectEventSubscriber(
                    api_url=self._runs.api_url, filter=wanted, reconnection_attempts=0
                ) as subscriber:
                    self._thorough = True  # whatever happened while nobody listened
                    async for event in subscriber:
                        if event.event not in _IGNORED and not is_of_trial(event):
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
                    await self._progress.apply(event.payload)
                elif (run_id := _run_id(event)) is not None:
                    await self._follow(run_id, event)
            except NotFound:
                continue  # deleted since
            except YardError as error:
                logger.warning("An event of Prefect was not projected: %s", error)
            except Exception:
                # One event that is a bug of ours must not end the stream of all others.
                logger.exception("An event of Prefect was not projected.")

    async def _follow(self, run_id: UUID, event: Event) -> None:
        """Bring a job up to date; what the facade did itself is in the catalog before its event comes."""
        at = _state_time(event)
        if at is not None and await self._projection.knows(run_id, at):
            return
        # why: the event may be older than what Prefect knows by now, so the run is read afresh
        await self._projection.apply(await self._runs.read(run_id))

    async def _reconcile(self) -> None:
        thorough, self._thorough = self._thorough, False
        try:
            await self._projection.reconcile(thorough=thorough)
        except BaseException:
            self._thorough = self._thorough or thorough
            raise


def is_of_trial(event: Event) -> bool:
    """Tell whether an event is about a trial of a sweep, which is no job; Prefect need not be asked for that."""
    return any(resource.id.startswith(_TRIAL) for resource in event.related)


def _run_id(event: Event) -> UUID | None:
    resource = event.resource.id
    try:
        return UUID(resource.removeprefix(_RUN)) if resource.startswith(_RUN) else None
    except ValueError:
        return None


def _state_time(event: Event) -> datetime | None:
    try:
        at = datetime.fromisoformat(event.resource.get("prefect.state-timestamp") or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else None

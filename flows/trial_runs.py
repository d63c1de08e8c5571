"""Trials as flow runs of the work pool: started, watched and stopped from the process of their sweep."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, StateDetails, StateType
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventAnyResourceFilter, EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_logger

from ..blocks.patience import patiently
from ..schemas.errors import Unavailable
from ..schemas.jobs import TAG
from ..schemas.states import PAUSING
from ..schemas.sweeps import SWEEP_TAG

T = TypeVar("T")

logger = get_logger("trainyard.sweep")

#: How long a sweep waits for a Prefect server that is away.
PATIENCE_S = 600.0

#: Seconds between two looks at all trials that run: events get lost.
LOOK_S = 2.0

#: Seconds between two tries to get an event stream, and at most for its end.
_RETRY_S, _END_S = 1.0, 5.0

_PAGE = 200
_RUN = "prefect.flow-run."

#: States in which a trial waits for a worker.
WAITING = frozenset({StateType.SCHEDULED})
#: States in which it needs nobody any more, or somebody's decision.
STANDING = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED, StateType.PAUSED})


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of a trial's flow run at one moment."""

    run_id: UUID
    type: StateType
    name: str
    message: str
    at: datetime


class TrialRuns:
    """The flow runs of one sweep. All calls wait out a server that is away.

    Raises:
        Unavailable: it is away for longer than `PATIENCE_S`.
    """

    def __init__(self, sweep_job_id: str, deployment: str) -> None:
        self._sweep = sweep_job_id
        self._deployment_name = deployment
        self._deployment_id: UUID | None = None
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._news: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        follow = partial(copy_context().run, asyncio.run, self._listen())
        self._stream = threading.Thread(target=follow, name="trainyard-trials", daemon=True)
        self._ended = threading.Event()
        self._looked_at = datetime.min.replace(tzinfo=UTC)

    def __enter__(self) -> TrialRuns:
        self._client.__enter__()
        self._stream.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._stream.join(_END_S)
        self._client.__exit__(*error)

    # --- starting and stopping

    def create(
        self,
        number: int,
        parameters: Mapping[str, Any],
        *,
        tags: Sequence[str],
        work_queue: str | None,
        job_variables: Mapping[str, Any],
    ) -> Seen:
        """Create the flow run of a trial, or find the one that an earlier attempt made."""
        run = _ask(
            lambda: self._client.create_flow_run_from_deployment(
                self._deployment(),
                parameters=dict(parameters),
                tags=[f"{SWEEP_TAG}:{self._sweep}", f"{TAG}trial:{number}", *tags],
                name=f"trial {number} of {self._sweep[:8]}",
                # One trial, one run, whatever happens to the answer or to this process.
                idempotency_key=f"{self._sweep}-{number}",
                work_queue_name=work_queue,
                job_variables=dict(job_variables),
                labels={SWEEP_TAG: self._sweep, f"{TAG}trial": number},
            )
        )
        return _seen(run)

    def go_on(self, run_id: UUID, parameters: Mapping[str, Any]) -> datetime | None:
        """Put a suspended or cancelled run back into the queue and return when; None when it is in another state."""
        _ask(lambda: self._client.update_flow_run(run_id, parameters=dict(parameters)))
        state: State[Any] = State(
            type=StateType.SCHEDULED,
            name="Resuming",
            message="The sweep goes on with it.",
            state_details=StateDetails(scheduled_time=datetime.now(UTC)),
        )
        answer = self._set(run_id, state)
        return answer.timestamp if answer is not None and answer.type is StateType.SCHEDULED else None

    def end(self, run_id: UUID, name: str, message: str) -> None:
        """End a suspended run for good, as no failure."""
        self._set(run_id, State(type=StateType.COMPLETED, name=name, message=message), force=True)

    def stop(self, run_ids: Sequence[UUID], *, pause: bool) -> None:
        """Cancel runs, or suspend them: a worker lets those that it trains save a checkpoint."""
        message = "Its sweep was stopped."
        for seen in self.look(run_ids).values():
            state: State[Any]
            if seen.type in (StateType.PENDING, StateType.RUNNING):
                name = PAUSING if pause else "Cancelling"
                self._set(seen.run_id, State(type=StateType.CANCELLING, name=name, message=message))
            elif pause and seen.type is StateType.SCHEDULED:
                details = StateDetails(pause_reschedule=True)
                state = State(type=StateType.PAUSED, name="Suspended", message=message, state_details=details)
                self._set(seen.run_id, state, force=True)
            elif not pause and seen.type in (StateType.SCHEDULED, StateType.PAUSED):
                self._set(seen.run_id, State(type=StateType.CANCELLED, message=message), force=True)

    def _set(self, run_id: UUID, state: State[Any], force: bool = False) -> State[Any] | None:
        """Set a state and return the one that the run has then; None when the run is gone."""
        try:
            return _ask(lambda: self._client.set_flow_run_state(run_id, state, force=force)).state
        except ObjectNotFound:
            logger.warning("The flow run %s of a trial is gone.", run_id)
            return None

    def _deployment(self) -> UUID:
        if self._deployment_id is None:
            self._deployment_id = self._client.read_deployment_by_name(self._deployment_name).id
        return self._deployment_id

    # --- watching

    def look(self, run_ids: Sequence[UUID]) -> dict[UUID, Seen]:
        """Return the states of those of the runs that exist."""
        found: dict[UUID, Seen] = {}
        for start in range(0, len(run_ids), _PAGE):
            some = FlowRunFilter(id=FlowRunFilterId(any_=list(run_ids[start : start + _PAGE])))
            page = _ask(partial(self._client.read_flow_runs, flow_run_filter=some, limit=_PAGE))
            found |= {run.id: _seen(run) for run in page}
        return found

    def wait(self, run_ids: Sequence[UUID], timeout_s: float) -> list[Seen]:
        """Return what has happened to runs of this sweep, as soon as something has, or after `timeout_s`.

        From time to time that is the state of all the runs that are asked for, whether it is new or not.
        """
        found: list[Seen] = []
        is_gap = datetime.now(UTC) - self._looked_at > timedelta(seconds=LOOK_S)
        try:
            first = self._news.get(timeout=0 if is_gap else timeout_s)
            while True:
                if first is None:
                    is_gap = True
                else:
                    found.append(first)
                first = self._news.get_nowait()
        except queue.Empty:
            pass
        if is_gap and run_ids:
            found += self.look(run_ids).values()
            self._looked_at = datetime.now(UTC)
        return found

    async def _listen(self) -> None:
        following = asyncio.create_task(self._follow())
        await asyncio.to_thread(self._ended.wait)
        following.cancel()
        await asyncio.wait([following])

    async def _follow(self) -> None:
        wanted = EventFilter(
            event=EventNameFilter(prefix=[_RUN]),
            any_resource=EventAnyResourceFilter(id=[f"prefect.tag.{SWEEP_TAG}:{self._sweep}"]),
        )
        while True:
            try:
                async with get_events_subscriber(filter=wanted, reconnection_attempts=0) as subscriber:
                    self._news.put(None)  # whatever happened while nobody listened
                    async for event in subscriber:
                        if (seen := _of_event(event.resource)) is not None:
                            self._news.put(seen)
            except Exception as error:  # noqa: BLE001 - whatever breaks the stream, looking goes on
                logger.debug("No event stream (%s); looking every %s s.", error, LOOK_S)
            await asyncio.sleep(_RETRY_S)


def _of_event(resource: Any) -> Seen | None:
    try:
        return Seen(
            run_id=UUID(resource.id.removeprefix(_RUN)),
            type=StateType(resource["prefect.state-type"]),
            name=resource["prefect.state-name"],
            message=resource.get("prefect.state-message") or "",
            at=datetime.fromisoformat(resource["prefect.state-timestamp"]),
        )
    except (KeyError, ValueError):  # a heartbeat, or something that is no run
        return None


def _seen(run: FlowRun) -> Seen:
    assert run.state is not None, "Prefect gives every flow run a state"
    state = run.state
    return Seen(run.id, state.type, state.name or "", state.message or "", state.timestamp)


def _ask(call: Callable[[], T]) -> T:
    """Return the answer of the Prefect server, waiting for it while it is away."""

    def once() -> T:
        try:
            return call()
        except httpx.TransportError as error:
            raise Unavailable(f"Prefect does not answer: {error or type(error).__name__}") from error
        except PrefectHTTPStatusError as error:
            if error.response.status_code < 500:
                raise
            raise Unavailable(f"Prefect does not answer: {error}") from error

    return patiently(once, PATIENCE_S, lambda error: logger.warning("Waiting for Prefect. %s", error))

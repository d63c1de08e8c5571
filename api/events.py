"""Logs as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing

from fastapi import Request
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Receive, Scope, Send

from ..schemas.errors import NotAuthenticated
from .catalog.models import Job
from .services.container import Services
from .services.files.follow import Cursor, Line, Sign

#: A client whose connection broke comes back after so long, with the id of the last line that it had.
_RETRY_MS = 1000
_COMMENTS = {
    Sign.QUIET: format_sse_event(comment="quiet"),
    Sign.LOST: format_sse_event(comment="lines are missing here: the log had grown too long"),
}


def log_events(request: Request, services: Services, job: Job, cursor: str | None) -> EventSourceResponse:
    """Return a response with every line of the log of a job as an event, from `cursor` on and as they come.

    Raises:
        InvalidInput: no cursor of ours.
        TooManyRequests: the org follows as many logs as it may.
    """
    place = Cursor.parse(cursor) if cursor else None
    token = request.headers.get("authorization", "").partition(" ")[2].strip()

    async def is_allowed() -> bool:
        try:
            await services.auth.authenticate(token, counted=False)
        except NotAuthenticated:
            return False
        return True

    slot = ExitStack()
    slot.enter_context(services.follow.following(job.org))
    events = services.follow.events(job.org, job.id, place, is_allowed)
    return _Events(_encoded(events), slot)


class _Events(EventSourceResponse):
    """Frees what it holds when the client goes away, at once and not when the memory is cleaned up."""

    def __init__(self, events: AsyncGenerator[bytes], slot: ExitStack) -> None:
        super().__init__(events, headers={"X-Accel-Buffering": "no"})
        self._events = events
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            async with aclosing(self._events):
                await super().__call__(scope, receive, send)


async def _encoded(events: AsyncGenerator[Line | Sign]) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        yield format_sse_event(retry=_RETRY_MS)
        async for event in events:
            if isinstance(event, Line):
                yield format_sse_event(data_str=event.text, id=str(event.cursor))
            elif event is Sign.END:
                yield format_sse_event(event="end", data_str="")
            else:
                yield _COMMENTS[event]

"""Logs as a WebSocket, for as long as the job runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket
from starlette.websockets import WebSocketDisconnect

from ....schemas.errors import NotAuthenticated, YardError
from ...services.container import Services
from ...services.files.follow import Line, Sign
from ...services.files.joblog import is_end

router = APIRouter()

#: Codes of the application's own, after those of HTTP.
_REFUSED, _NOT_FOUND, _TOO_MANY = 4401, 4404, 4429
_NORMAL = 1000
_CODES = {401: _REFUSED, 404: _NOT_FOUND, 429: _TOO_MANY}

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d) (?:DEBUG|INFO|WARNING|ERROR|CRITICAL) (.*)", re.DOTALL)


@router.websocket("/ws/logs/{job_id}/")
async def follow_logs(
    socket: WebSocket, job_id: str, api_key: Annotated[str | None, Query(max_length=4096)] = None
) -> None:
    """Sends every line of the log as {message, ts}, as they come, and closes when the job has ended"""
    services: Services = socket.app.state.services
    key = socket.headers.get("x-api-key") or api_key

    async def is_allowed() -> bool:
        try:
            await services.auth.authenticate_key(key or "", counted=False)
        except NotAuthenticated:
            return False
        return True

    try:
        caller = await services.auth.authenticate_key(key or "")
        found = await services.commands.find(caller.org, job_id)
        with services.follow.following(caller.org):
            await socket.accept()
            events = services.follow.events(caller.org, found.job.id, None, is_allowed)
            await _send_until_gone(socket, events)
    except YardError as error:
        await socket.close(_CODES.get(error.status, 4000 + error.status), str(error)[:120])


async def _send_until_gone(socket: WebSocket, events: AsyncGenerator[Line | Sign]) -> None:
    """Send until the job has ended or the client has gone, whichever is first."""
    sending = asyncio.create_task(_send(socket, events))
    gone = asyncio.create_task(_wait_for_end(socket))
    try:
        await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, gone):
            task.cancel()
        for task in (sending, gone):
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await task
    if not gone.done() or gone.cancelled():
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await socket.close(_NORMAL)


async def _wait_for_end(socket: WebSocket) -> None:
    # Nothing that a client sends means anything.
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _send(socket: WebSocket, events: AsyncGenerator[Line | Sign]) -> None:
    async with aclosing(events) as stream:
        async for event in stream:
            if isinstance(event, Line):
                if not is_end(event.text):
                    await socket.send_text(_frame(event.text))
            elif event is Sign.END:
                return
            elif event is Sign.LOST:
                await socket.send_text(_frame("Lines are missing here: the log had grown too long."))


def _frame(line: str) -> str:
    """Return a line as the command line reads it, which takes the message for a template: braces are doubled."""
    stamp, text = None, line
    if (found := _STAMP.fullmatch(line)) is not None:
        # The log is in the time of the worker, which is the time of this machine.
        moment = datetime.fromisoformat(found[1]).astimezone(UTC)
        stamp, text = int(moment.timestamp()) * 10**9, found[2]
    return json.dumps({"message": text.replace("{", "{{").replace("}", "}}"), "ts": stamp})

"""How the application is served: by uvicorn, to clients that may be slow on purpose."""

from __future__ import annotations

import asyncio

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Whoever connects has to say within this time what is wanted.
HEAD_S = 20.0
#: A client that takes nothing of its answer for so long gets no more of it.
STALLED_S = 60.0
CONNECTIONS_MAX = 2000
_HEAD_MAX_BYTES = 1 << 16
_WEBSOCKET_MAX_BYTES = 1 << 16


class _Deadline:
    """Aborts a connection when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        """Let the time begin, unless it runs already."""
        if self._timer is None and not transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class PatientProtocol(H11Protocol):
    """HTTP with an end to patience, which uvicorn has only between two requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head, self._stalled = _Deadline(HEAD_S), _Deadline(STALLED_S)
        self._head.start(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.get_protocol() is not self:
            return  # it is a WebSocket now
        if self.cycle is None or self.cycle.response_complete:
            self._head.start(self.transport)
        else:
            self._head.stop()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._head.stop()
        super().handle_websocket_upgrade(event)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled.start(self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._head.stop()
        self._stalled.stop()


def server_config(app: FastAPI, *, host: str, port: int, log_level: str = "warning") -> uvicorn.Config:
    """Return how uvicorn is to serve `app`."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=_HEAD_MAX_BYTES,
        ws_max_size=_WEBSOCKET_MAX_BYTES,
    )

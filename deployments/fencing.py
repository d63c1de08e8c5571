"""Keeps a run from going on here when the server may have given it to somebody else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx
from prefect.logging import get_logger

logger = get_logger("trainyard.worker.fence")

#: Others take a worker for lost 20 s after the last heartbeat that the server has of it. This leaves them 8 s.
FREEZE_AFTER_S = 12.0
_BEAT_S = 3.0
_LOOK_S = 0.25


def is_far(api_url: str) -> bool:
    """Tell whether a server is on another machine, so that the network between may fail."""
    host = urlsplit(api_url).hostname or ""
    if host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


class Fence:
    """Sends heartbeats; freezes the runs when the server has not taken one for `freeze_after_s` seconds.

    Prefect sends heartbeats, too, but pauses for up to a minute after a failure.

    `freeze` may be called again and again while there is no answer. `thaw` is called when the server is back, again
    until it succeeds: it has to find out which runs are still ours.
    """

    def __init__(
        self,
        beat: Callable[[], Awaitable[None]],
        freeze: Callable[[], None],
        thaw: Callable[[], Awaitable[None]],
        freeze_after_s: float,
    ) -> None:
        self._beat = beat
        self._freeze = freeze
        self._thaw = thaw
        self._freeze_after_s = freeze_after_s
        self._heard_at = time.monotonic()

    async def watch(self) -> None:
        """Do so until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat_for_ever())
            frozen = False
            while True:
                if time.monotonic() - self._heard_at > self._freeze_after_s:
                    if not frozen:
                        logger.warning("The Prefect server does not answer: the runs here are frozen until it does.")
                    frozen = True
                    self._freeze()
                elif frozen:
                    await self._thaw()
                    frozen = False
                    logger.warning("The Prefect server is back.")
                await asyncio.sleep(_LOOK_S)

    async def _beat_for_ever(self) -> None:
        while True:
            sent_at = time.monotonic()
            try:
                await self._beat()
                # The server cannot have noted it before it was sent.
                self._heard_at = sent_at
            except httpx.HTTPError as error:
                logger.info("A heartbeat did not reach the server: %s", error or type(error).__name__)
            await asyncio.sleep(min(_BEAT_S, self._freeze_after_s / 4))

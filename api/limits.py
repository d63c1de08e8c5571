"""Limits that stand before all routes: for strangers who guess, and for bodies that trickle in."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

from fastapi import Request
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..schemas.errors import TooSlow
from .errors import render
from .services.accounts.rates import Budget, refuse

#: Slower than this on average, and a client could send one body for days.
_MIN_BYTES_PER_S = 10_000
_KNOWN_MAX = 10_000
_CREDENTIALS = ("authorization", "x-api-key", "x-ncp-apigw-signature-v2")


class RefusalLimit:
    """Answers 429 to an address whose credentials were refused too often.

    Credentials that were good once still pass, so that who guesses does not shut out others behind the same address.
    """

    def __init__(self, app: ASGIApp, *, per_minute: int) -> None:
        self._app = app
        self._budget = Budget(per_minute / 60, per_minute)
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address, digest = _address(scope), _credentials(scope)
        wait_s = self._budget.wait_s(address)
        if wait_s > 0 and digest not in self._good:
            await render(Request(scope), refuse(wait_s))(scope, receive, send)
            return

        async def send_and_look(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    self._budget.spend(address)
                    self._good.pop(digest, None)
                elif digest:
                    self._remember(digest)
            await send(message)

        await self._app(scope, receive, send_and_look)

    def _remember(self, digest: bytes) -> None:
        self._good[digest] = None
        self._good.move_to_end(digest)
        if len(self._good) > _KNOWN_MAX:
            self._good.popitem(last=False)


class PatientBodies:
    """Gives a client so long to send the next piece of its body, and all of it at some speed; then answers 408."""

    def __init__(self, app: ASGIApp, *, silence_s: float) -> None:
        self._app = app
        self._silence_s = silence_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, received, ended = time.monotonic(), 0, False

        async def receive_soon() -> Message:
            nonlocal received, ended
            if ended:  # what comes now is the end of the connection, which may take its time
                return await receive()
            left_s = began + self._silence_s + received / _MIN_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(min(left_s, self._silence_s)):
                    message = await receive()
            except TimeoutError as error:
                raise TooSlow("The body came too slowly.", hint="Send it again, faster.") from error
            received += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            return message

        await self._app(scope, receive_soon, send)


def _address(scope: Scope) -> str:
    """Return whom an address stands for: a network of IPv6 belongs to one."""
    text = scope["client"][0] if scope.get("client") else ""
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or IPv6Address(int(address) >> 64 << 64))
    return text


def _credentials(scope: Scope) -> bytes:
    """Return a digest of what the request says who it is by, empty when it says nothing."""
    headers = HTTPConnection(scope).headers
    told = "\n".join(headers.get(name, "") for name in _CREDENTIALS)
    return hashlib.sha256(told.encode("latin-1")).digest() if told.strip() else b""

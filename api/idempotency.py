"""`Idempotency-Key`: a POST that is sent again is answered again, not done again.

After draft-ietf-httpapi-idempotency-key-header. Keys are per org and user. Kept are answers below 400 only: a request
that was refused made nothing, so its key may come again with what was wrong put right; one that ended in an error of
ours may be sent again as it is, and goes on where the first try ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..schemas.errors import Conflict, InvalidInput, NotAuthenticated, YardError
from .body import read_limited
from .errors import render
from .multipart import Body
from .services.accounts.auth import Caller
from .services.accounts.idempotency import EXTEND_S, Answer, Claim, IdempotencyKeys, once
from .services.container import Services

logger = logging.getLogger(__name__)

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
WAIT_S = 30.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
#: A larger answer is sent but not kept; nothing here answers a POST with so much.
_ANSWER_MAX_BYTES = 1 << 20
#: Content types of bodies that are no JSON; they may be as large as an archive.
_UPLOADS = ("multipart/", "application/zip", "application/gzip", "application/x-tar", "application/octet-stream")
_POLL_S, _POLL_MAX_S = 0.02, 0.5


class IdempotentPosts:
    """Stands before all routes, so that none can forget it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or HEADER not in Headers(scope=scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        services: Services = scope["app"].state.services
        try:
            caller = await _caller(request, services)
            if caller is None:
                await self._app(scope, receive, send)  # to be refused there; a login needs no key
                return
            await self._answer(request, caller, services.keys, send)
        except YardError as error:
            await _refuse(request, error, send)

    async def _answer(self, request: Request, caller: Caller, keys: IdempotencyKeys, send: Send) -> None:
        key = _key(request)
        limit_bytes = request.app.state.settings.body_max_bytes
        content = None if _is_upload(request) else await read_limited(request, limit_bytes)
        fingerprint = _fingerprint(request, content)
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + WAIT_S, _POLL_S
        while (found := await keys.claim(caller.org, caller.user_id, key, fingerprint)) is None:
            if loop.time() > give_up_at:
                raise Conflict(
                    "The request with this Idempotency-Key is still being worked on.", hint="Send it again later."
                )
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _POLL_MAX_S)
        if isinstance(found, Answer):
            await _drain(request, content)
            headers = {"Content-Type": found.media_type, REPLAYED: "true"}
            await Response(found.body, found.status_code, headers)(request.scope, request.receive, send)
            return
        recorder = _Recorder(send)
        receive = request.receive if content is None else _again(content, request.receive)
        try:
            async with _extended(keys, found):
                with once(found.id):
                    await self._app(request.scope, receive, recorder)
        except BaseException:
            await asyncio.shield(keys.release(found))
            raise
        await _settle(keys, found, recorder)
        await recorder.flush()


class _Recorder:
    """Holds an answer back until it is stored; one that is too large goes straight on."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._size_bytes = 0
        self._passing = False
        self.status_code = 500
        self.media_type = ""

    @property
    def answer(self) -> Answer | None:
        """The answer, None if it was too large to be kept."""
        if self._passing:
            return None
        body = b"".join(message.get("body", b"") for message in self._held[1:])
        return Answer(status_code=self.status_code, media_type=self.media_type, body=body)

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status_code = message["status"]
            self.media_type = Headers(raw=message["headers"]).get("content-type", "")
        self._size_bytes += len(message.get("body", b""))
        self._held.append(message)
        if self._passing or self._size_bytes > _ANSWER_MAX_BYTES:
            self._passing = True
            await self.flush()

    async def flush(self) -> None:
        held, self._held = self._held, []
        for message in held:
            await self._send(message)


async def _settle(keys: IdempotencyKeys, claim: Claim, recorder: _Recorder) -> None:
    answer = recorder.answer
    if answer is None or answer.status_code >= 500:
        await keys.release(claim)
    elif answer.status_code >= 400:
        await keys.forget(claim)
    else:
        await keys.store(claim, answer)


@asynccontextmanager
async def _extended(keys: IdempotencyKeys, claim: Claim) -> AsyncIterator[None]:
    """Keep other tries away for as long as the block takes."""

    async def extend() -> None:
        while True:
            await asyncio.sleep(EXTEND_S)
            try:
                await keys.extend(claim)
            except Exception as error:  # noqa: BLE001 - the catalog is busy or away; the next round may succeed
                logger.warning("An idempotency key was not extended: %s", error)

    task = asyncio.create_task(extend())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _caller(request: Request, services: Services) -> Caller | None:
    """Return who sends the request, None for strangers."""
    key = request.headers.get("x-api-key")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if key is None and scheme.lower() != "bearer":
        return None
    try:
        if key is not None:
            # why not noted on the request: routes that want a token must not take a key for one.
            return await services.auth.authenticate_key(key)
        caller = await services.auth.authenticate(token.strip())
    except NotAuthenticated:
        return None
    request.state.caller = caller
    return caller


def _key(request: Request) -> str:
    sent = request.headers.getlist(HEADER)
    if len(sent) != 1 or not _KEY.fullmatch(sent[0]):
        raise InvalidInput(
            f"{HEADER}: it is not 1 to 255 visible ASCII characters.", hint="Send for example a random UUID, once."
        )
    return sent[0]


def _is_upload(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith(_UPLOADS)


def _fingerprint(request: Request, content: bytes | None) -> str:
    """Return what two tries of one request share.

    An upload is told by its path and length: its content may be gigabytes, and its boundary differs with every try.
    """
    told = hashlib.sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    told.update(content if content is not None else request.headers.get("content-length", "").encode())
    return told.hexdigest()


def _again(content: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, then whatever comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return again


async def _drain(request: Request, content: bytes | None) -> None:
    if content is None:
        await Body(request).drain()


async def _refuse(request: Request, error: YardError, send: Send) -> None:
    response = render(request, error)
    if isinstance(error, Conflict):
        response.headers["Retry-After"] = "5"
    await response(request.scope, request.receive, send)

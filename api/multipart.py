"""Receive one uploaded file in constant memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..datasets.disk import full_disk_as_storage_full
from ..schemas.errors import InvalidInput, TooLarge

FIELD = "file"
_CHUNK_BYTES = 1 << 20
_HEADERS_MAX_BYTES = 1 << 14
#: A client that is told "no" while it still sends would see a broken connection, so so much is read to its end.
_DRAIN_BYTES = 64 << 20
_HINT = f"Send the archive as multipart/form-data in the field `{FIELD}`: curl -F file=@set.tar.gz."


class Body:
    """The body of a request as it comes in."""

    def __init__(self, request: Request) -> None:
        self.headers = request.headers
        self._receive = request.receive
        self._ended = False

    @property
    def declared_bytes(self) -> int | None:
        """The length that the client announces, None when it does not."""
        text = self.headers.get("content-length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._ended = True
                raise InvalidInput("The connection broke off.", hint="Send it again.")
            self._ended = not message.get("more_body", False)
            yield message.get("body", b"")

    async def drain(self) -> None:
        """Read what the client still sends, up to a limit."""
        rest = 0
        with contextlib.suppress(InvalidInput):
            async for chunk in self.chunks():
                rest += len(chunk)
                if rest > _DRAIN_BYTES:
                    return


async def receive_file(body: Body, target: Path, limit_bytes: int, *, field: str = FIELD, hint: str = _HINT) -> None:
    """Write the content of the part `field` to `target`.

    Raises:
        InvalidInput: the body is not multipart, broken, cut off, or has no such part.
        TooLarge: more than `limit_bytes`.
        StorageFull: no room left.
    """
    most = limit_bytes + _HEADERS_MAX_BYTES
    too_large = TooLarge(
        f"The archive has more than {limit_bytes} bytes.", hint="Split it: pieces of one data set are merged."
    )
    if (body.declared_bytes or 0) > most:
        raise too_large
    with full_disk_as_storage_full("receive the archive"), target.open("wb") as file:
        part = _Part(body.headers.get("content-type", ""), file, field, hint)
        received = 0
        async for chunk in body.chunks():
            received += len(chunk)
            if received > most:
                raise too_large
            part.feed(chunk)
            if len(part.pending) >= _CHUNK_BYTES:
                await asyncio.to_thread(part.flush)
        await asyncio.to_thread(part.flush)
    part.finish()


async def receive_body(body: Body, target: Path, limit_bytes: int) -> None:
    """Write a whole body to `target`, as it is.

    Raises:
        TooLarge: more than `limit_bytes`.
        StorageFull: no room left.
    """
    too_large = TooLarge(f"The archive has more than {limit_bytes} bytes.", hint="Leave out what is not needed.")
    if (body.declared_bytes or 0) > limit_bytes:
        raise too_large
    received = 0
    with full_disk_as_storage_full("receive the archive"), target.open("wb") as file:
        async for chunk in body.chunks():
            received += len(chunk)
            if received > limit_bytes:
                raise too_large
            await asyncio.to_thread(file.write, chunk)


class _Part:
    """Picks the content of one field out of a multipart body."""

    def __init__(self, content_type: str, file: IO[bytes], field: str, hint: str) -> None:
        self._field = field
        self._hint = hint
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidInput("The body is not multipart/form-data.", hint=self._hint)
        self.pending = bytearray()
        self._file = file
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._inside = False
        self._found = False
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_end": self._finished,
            },
        )

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError as error:
            raise InvalidInput("The multipart body is broken.", hint=self._hint) from error

    def flush(self) -> None:
        self._file.write(self.pending)
        self.pending.clear()

    def finish(self) -> None:
        if not self._ended:
            raise InvalidInput("The multipart body is cut off.", hint="Send it again.")
        if not self._found:
            raise InvalidInput(f"The body has no field `{self._field}`.", hint=self._hint)

    def _begin(self) -> None:
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._name, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._grow(self._value, data[start:end])

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._inside = options.get(b"name") == self._field.encode()
        if self._inside and self._found:
            raise InvalidInput(f"The body has several fields `{self._field}`.", hint="Send one archive per request.")
        self._found = self._found or self._inside

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._inside:
            self.pending += data[start:end]

    def _end(self) -> None:
        self._inside = False

    def _finished(self) -> None:
        self._ended = True

    def _grow(self, buffer: bytearray, data: bytes) -> None:
        buffer += data
        if len(buffer) > _HEADERS_MAX_BYTES:
            raise InvalidInput("The multipart body has a header that is too long.", hint=self._hint)

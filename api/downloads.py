"""Answer with stored files: whole, by range, or only their headers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import PurePosixPath
from typing import IO

from fastapi import Request
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response, StreamingResponse

from ..blocks import ArtifactStorage
from .services.files.files import JobFile

_CHUNK_BYTES = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def stored_file(
    request: Request, storage: ArtifactStorage, path: str, size_bytes: int, *, media_type: str, name: str | None = None
) -> Response:
    """Return a response with a file of the storage; `name` makes it an attachment."""
    local = storage.local_path(path)
    if local is not None:
        return FileResponse(local, media_type=media_type, filename=name)
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{size_bytes:x}"'}
    if name is not None:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    wanted = _range(request.headers.get("range"), size_bytes)
    if wanted is None:
        start, end, status = 0, size_bytes, 200
    elif wanted[0] >= wanted[1]:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size_bytes}"})
    else:
        (start, end), status = wanted, 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    return StreamingResponse(_read(storage, path, start, end), status, headers, media_type)


async def stored_text(
    request: Request, storage: ArtifactStorage, paths: Sequence[str], *, media_type: str, name: str | None = None
) -> Response:
    """Return a response with files of the storage, one after the other; `name` makes it an attachment."""
    sizes = [await asyncio.to_thread(storage.size, path) for path in paths]
    if len(paths) == 1:
        return stored_file(request, storage, paths[0], sizes[0], media_type=media_type, name=name)

    async def chunks() -> AsyncIterator[bytes]:
        for path, size_bytes in zip(paths, sizes, strict=True):
            async for chunk in _read(storage, path, 0, size_bytes):
                yield chunk

    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name is not None else None
    return StreamingResponse(chunks(), headers=headers, media_type=media_type)


async def single_file(request: Request, storage: ArtifactStorage, file: JobFile) -> Response:
    """Return a response with one file of a job as it is."""
    name = PurePosixPath(file.name).name
    if not file.paths:
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(file.content, media_type="application/octet-stream", headers=headers)
    return await stored_text(request, storage, file.paths, media_type="application/octet-stream", name=name)


def open_file(file: IO[bytes], size_bytes: int, *, media_type: str, name: str) -> Response:
    """Return a response with an open temporary file, which is closed when it is sent."""
    headers = {"Content-Length": str(size_bytes), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(
        _chunks(file, size_bytes), headers=headers, media_type=media_type, background=BackgroundTask(file.close)
    )


def _range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """Return the wanted range as [start, end), None for the whole file; empty when it cannot be had."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    return int(first), min(size_bytes, int(last) + 1) if last else size_bytes


async def _read(storage: ArtifactStorage, path: str, start: int, end: int) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(storage.open, path)
    try:
        await asyncio.to_thread(file.seek, start)
        async for chunk in _chunks(file, end - start):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)


async def _chunks(file: IO[bytes], size_bytes: int) -> AsyncIterator[bytes]:
    left = size_bytes
    while left > 0 and (chunk := await asyncio.to_thread(file.read, min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk

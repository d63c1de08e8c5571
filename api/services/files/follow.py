"""Read a log while it is written: line by line, from any place on, across its segments."""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import IO
from uuid import UUID

from sqlalchemy import select

from ....blocks import ArtifactStorage, layout
from ....schemas.errors import InvalidInput, NotFound, TooManyRequests, YardError
from ...catalog import Catalog
from ...catalog.models import Job
from .joblog import is_end

logger = logging.getLogger(__name__)

#: A line or a sign of life comes at least so often.
QUIET_S = 15.0
_LOCAL_POLL_S, _REMOTE_POLL_S = 0.3, 1.0
_CHUNK_BYTES = 1 << 20
#: So much of its first line tells a segment from another.
_HEAD_BYTES = 512
_CURSOR = re.compile(r"(?:([0-9a-f]{8})-)?([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a log. Without `segment`, `offset` counts from the start of all that there is of the log."""

    segment: str | None
    offset: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Raises InvalidInput for what no event had as its id."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InvalidInput("cursor: it is no id of an event of this log.", hint="Leave it out to read all.")
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        return f"{self.segment}-{self.offset}" if self.segment is not None else str(self.offset)


@dataclass(frozen=True, slots=True)
class Line:
    """A line, and from where to go on after it. That of the last line is before it: it may be taken back."""

    text: str
    cursor: Cursor
    ends: bool = False


class Sign(Enum):
    """What comes between lines."""

    QUIET = "quiet"
    """Nothing new for a while; the log is still being followed."""
    LOST = "lost"
    """Some of the log was dropped before it could be read: it had grown too long."""
    END = "end"
    """The job has ended, or is gone."""


@dataclass(frozen=True, slots=True)
class _Segment:
    file: IO[bytes]
    size_bytes: int
    id: str | None
    """None while it has no complete line."""


class LogReader:
    """Reads what is new in a log. It blocks: call it in a thread."""

    def __init__(self, storage: ArtifactStorage, org: str, job_id: UUID, cursor: Cursor | None) -> None:
        self._storage = storage
        self._path, self._earlier = layout.log(org, job_id), layout.earlier_log(org, job_id)
        self._segment = cursor.segment if cursor else None
        self._offset = cursor.offset if cursor else 0
        self._seen: object = None
        self.has_more = True
        """Whether `read` has left something for the next time."""
        self.lost = False
        """Whether the last `read` found that something was dropped before it was read."""

    def read(self) -> list[Line]:
        """Return the new lines, or some of them.

        Raises:
            NotFound: there is no log.
        """
        stamp = self._stamp()
        if stamp == self._seen and not self.has_more:
            return []
        self.lost = False
        with self._open(self._path) as current:
            if current.id == self._segment is not None:
                lines = self._take(current, is_last=True)
            else:
                lines = self._read_both(current)
        self._seen = stamp
        return lines

    def _read_both(self, current: _Segment) -> list[Line]:
        """Return lines where the place is not in the current segment, as far as anybody knows yet."""
        try:
            with self._open(self._earlier) as earlier:
                if self._segment is None and self._offset >= earlier.size_bytes:
                    return self._enter(current, self._offset - earlier.size_bytes)
                if self._segment != earlier.id:
                    # Without a segment it is the start; else all that was read is gone, and perhaps more after it.
                    self.lost = self._segment is not None and self._offset > 0
                    self._segment, self._offset = earlier.id, self._offset if self._segment is None else 0
                if lines := self._take(earlier, is_last=False):
                    return lines
        except NotFound:
            if self._segment is None:
                return self._enter(current, self._offset)
            self.lost = self._offset > 0
        return self._enter(current, 0)

    def _enter(self, current: _Segment, offset: int) -> list[Line]:
        if current.id is None:
            return []
        self._segment, self._offset = current.id, offset
        return self._take(current, is_last=True)

    def _take(self, segment: _Segment, *, is_last: bool) -> list[Line]:
        assert segment.id is not None
        self._offset = min(self._offset, segment.size_bytes)
        segment.file.seek(self._offset)
        chunk = segment.file.read(_CHUNK_BYTES)
        whole = len(chunk) < _CHUNK_BYTES
        if is_last or not whole:
            # The rest of a line comes later; one that is longer than a chunk comes in pieces.
            chunk = chunk[: chunk.rfind(b"\n") + 1] or (b"" if whole else chunk)
        lines = []
        for raw in _split(chunk):
            before, self._offset = self._offset, self._offset + len(raw)
            text = raw.rstrip(b"\r\n").decode(errors="replace")
            ends = is_last and is_end(text) and self._offset == segment.size_bytes
            lines.append(Line(text, Cursor(segment.id, before if ends else self._offset), ends))
        self.has_more = not is_last or not whole
        return lines

    def _stamp(self) -> object:
        """Return something that changes with the log, for as little as possible."""
        local = self._storage.local_path(self._path)
        if local is None:
            return self._storage.size(self._path)
        try:
            found = local.stat()
        except FileNotFoundError as error:
            raise NotFound(f"{self._path} is not in the storage.") from error
        return found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _open(self, path: str) -> Iterator[_Segment]:
        with self._storage.open(path) as file:
            head = file.read(_HEAD_BYTES)
            line, newline, _ = head.partition(b"\n")
            size_bytes = file.seek(0, 2)
            is_whole = bool(newline) or len(head) == _HEAD_BYTES
            yield _Segment(file, size_bytes, f"{zlib.crc32(line):08x}" if is_whole else None)


def _split(chunk: bytes) -> list[bytes]:
    """Split at newlines alone: progress bars have carriage returns inside their lines."""
    *lines, rest = chunk.split(b"\n")
    return [*(line + b"\n" for line in lines), *([rest] if rest else [])]


class FollowService:
    """Logs that somebody reads along."""

    def __init__(self, catalog: Catalog, storage: ArtifactStorage, most_per_org: int) -> None:
        self._catalog = catalog
        self._storage = storage
        self._most_per_org = most_per_org
        self._followers: Counter[str] = Counter()
        self._closed = False

    def close(self) -> None:
        """Let all followers go; their clients come back to whoever serves then."""
        self._closed = True

    def count(self, org: str) -> int:
        return self._followers[org]

    @contextmanager
    def following(self, org: str) -> Iterator[None]:
        """Count a follower.

        Raises:
            TooManyRequests: the org has as many as it may have.
        """
        if self._followers[org] >= self._most_per_org:
            raise TooManyRequests(
                f"{self._most_per_org} logs are being followed already.", hint="Close one of them and try again."
            )
        self._followers[org] += 1
        try:
            yield
        finally:
            self._followers[org] -= 1

    async def events(
        self, org: str, job_id: UUID, cursor: Cursor | None, is_allowed: Callable[[], Awaitable[bool]]
    ) -> AsyncGenerator[Line | Sign]:
        """Give all lines from `cursor` on, as they come, until the job has ended.

        `is_allowed` is asked whenever nothing came for a while; a caller who is not any more gets no more.
        """
        reader = LogReader(self._storage, org, job_id, cursor)
        poll_s = _LOCAL_POLL_S if self._storage.root is not None else _REMOTE_POLL_S
        clock = asyncio.get_running_loop().time
        heard_at = clock()
        while not self._closed:
            lines: list[Line] = []
            gone = False
            try:
                lines = await asyncio.to_thread(reader.read)
            except NotFound:
                gone = True  # or just between two segments
            except (YardError, OSError) as error:
                logger.warning("The log of the job %s cannot be read now: %s", job_id, error)
            if lines:
                if reader.lost:
                    yield Sign.LOST
                for line in lines:
                    yield line
                    if line.ends:
                        yield Sign.END
                        return
                heard_at = clock()
                if reader.has_more:
                    continue
            elif clock() - heard_at > QUIET_S:
                if not await is_allowed():
                    return
                if gone and not await self._exists(job_id):
                    yield Sign.END
                    return
                yield Sign.QUIET
                heard_at = clock()
            await asyncio.sleep(poll_s)

    async def _exists(self, job_id: UUID) -> bool:
        async with self._catalog.reading() as session:
            return await session.scalar(select(Job.id).where(Job.id == job_id)) is not None

"""The lines of a log on their way to a remote storage, kept on the local disk until they are there.

The folder of a spool holds `log.json` with the address of the log and numbered parts. A part has `base.txt`,
what the log held when the part began, and `lines.txt`, what was added since; the log is both together, so
sending it again changes nothing. A new part begins when the log is rotated or somebody else has added lines.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path

from pydantic import BaseModel

from ..blocks import ArtifactStorage, load_storage
from ..blocks.appending import GrowingFile
from ..schemas.errors import NotFound

ADDRESS, BASE, LINES = "log.json", "base.txt", "lines.txt"

#: Suffix of a part that is to become the earlier segment of the log.
ROTATED = ".rotated"


class LogAddress(BaseModel):
    """Where a log goes. Keys of the storage are not kept here: whoever finishes the spool has its own."""

    url: str
    endpoint_url: str | None
    path: str
    earlier_path: str
    limit_bytes: int


class Spool:
    """One log. `append` is for any thread and never waits for the storage; `push` is for one at a time."""

    def __init__(self, folder: Path, storage: ArtifactStorage, address: LogAddress) -> None:
        self._folder = folder
        self._storage = storage
        self._address = address
        self._lock = threading.Lock()
        self._pushed_bytes: int | None = None
        parts, is_rotated = _parts(folder), _rotated(folder) is not None
        self._part = parts[-1] if parts else _begin_part(folder, b"" if is_rotated else None)
        self._lines = GrowingFile(self._part / LINES)

    @classmethod
    def create(cls, folder: Path, storage: ArtifactStorage, path: str, earlier_path: str, limit_bytes: int) -> Spool:
        folder.mkdir(parents=True, exist_ok=True)
        address = LogAddress(
            url=storage.url,
            endpoint_url=storage.endpoint_url,
            path=path,
            earlier_path=earlier_path,
            limit_bytes=limit_bytes,
        )
        _write_whole(folder / ADDRESS, address.model_dump_json().encode())
        return cls(folder, storage, address)

    def append(self, line: str) -> None:
        with self._lock:
            self._lines.append(line)

    def push(self) -> None:
        """Bring the storage up to date. What fails is tried again by the next call.

        Raises:
            YardError: the storage is away or full.
        """
        with self._lock:
            self._lines.flush()
        if not (self._part / BASE).exists():
            _write_whole(self._part / BASE, self._stored())
        rotated = _rotated(self._folder)
        if rotated is not None:
            self._storage.write_bytes(self._address.earlier_path, merged(self._stored(), _content(rotated)))
        elif self._is_changed_by_others():
            self._take_in(self._stored())
        content = _content(self._part)
        if len(content) != self._pushed_bytes or rotated is not None:
            self._storage.write_bytes(self._address.path, content)
            self._pushed_bytes = len(content)
        if rotated is not None:
            _drop(rotated)
        if len(content) > self._address.limit_bytes:
            self._rotate()

    def _stored(self) -> bytes:
        try:
            return self._storage.read_bytes(self._address.path)
        except NotFound:
            return b""

    def _is_changed_by_others(self) -> bool:
        try:
            return self._storage.size(self._address.path) != self._pushed_bytes
        except NotFound:
            return False

    def _take_in(self, stored: bytes) -> None:
        """Go on from a new part that has the lines of others as well; killed in between, the newest part is true."""
        with self._lock:
            old = self._part
            ours = _content(old)
            if (content := merged(stored, ours)) == ours:
                return
            self._switch_to(_begin_part(self._folder, content))
        _drop(old)

    def _rotate(self) -> None:
        with self._lock:
            self._part.rename(self._part.with_suffix(ROTATED))
            self._switch_to(_begin_part(self._folder, b""))

    def _switch_to(self, part: Path) -> None:
        waiting = self._lines
        self._part, self._lines = part, GrowingFile(part / LINES)
        self._lines.take_over(waiting)


def merged(stored: bytes, ours: bytes) -> bytes:
    """Return our log with the lines that others have added to the stored one since we last sent ours."""
    if ours.startswith(stored):
        return ours
    there, here = stored.splitlines(keepends=True), ours.splitlines(keepends=True)
    common = next((n for n, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), min(len(there), len(here)))
    return stored + b"".join(here[common:])


def finish_spool(folder: Path) -> None:
    """Bring to the storage what a process that is gone has left in its spools below `folder`, and remove it.

    It can be called any number of times, also for a folder that is empty or not there.

    Raises:
        YardError: the storage is away or full; the folder stays.
    """
    for address in folder.glob(f"*/{ADDRESS}"):
        known = LogAddress.model_validate_json(address.read_bytes())
        storage = load_storage()
        if storage.url != known.url:
            storage = ArtifactStorage(url=known.url, endpoint_url=known.endpoint_url)
        Spool(address.parent, storage, known).push()
    shutil.rmtree(folder, ignore_errors=True)


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.isdecimal())


def _rotated(folder: Path) -> Path | None:
    """Return the part that becomes the earlier segment; of two, the newer one."""
    return max(folder.glob(f"*{ROTATED}"), default=None)


def _begin_part(folder: Path, base: bytes | None) -> Path:
    number = max((int(path.stem) for path in folder.iterdir() if path.stem.isdecimal()), default=0) + 1
    part = folder / f"{number:06d}"
    making = part.with_suffix(".new")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    if base is not None:
        (making / BASE).write_bytes(base)
    making.rename(part)
    return part


def _content(part: Path) -> bytes:
    content = b""
    for name in (BASE, LINES):
        with contextlib.suppress(FileNotFoundError):
            content += (part / name).read_bytes()
    return content


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _drop(part: Path) -> None:
    """Remove a part; a half-removed one must not be taken for a log."""
    gone = part.with_suffix(".gone")
    part.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)

"""Unpack an uploaded archive as if its sender wanted to break the machine."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ..schemas.errors import ArchiveError, TooLarge
from .disk import full_disk_as_storage_full
from .names import name_problem
from .tar_stream import Member, MemberKind, TarReader, show_name

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_BUFFER = 2**18
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive may hold. Defaults suit image sets on one machine."""

    max_members: int = 1_000_000
    """Files and folders, those that only paths name included."""
    max_total_bytes: int = 256 * 2**30
    """Unpacked, with headers and padding."""
    max_file_bytes: int = 4 * 2**30
    max_ratio: float = 200.0
    """Unpacked to packed; gzip reaches 1,032 with zeros."""
    ratio_from_bytes: int = 64 * 2**20
    """The ratio does not count before so much is unpacked: plain drawings may well compress 500 times."""
    max_depth: int = 32
    max_path_bytes: int = 1024
    max_name_bytes: int = 255
    allow_archives: bool = False
    """Whether files may be archives themselves; nobody unpacks those."""


@dataclass(frozen=True, slots=True)
class ExtractedFile:
    """A file that lies below the destination now; `path` has forward slashes."""

    path: str
    size_bytes: int


_ARCHIVE_SUFFIXES = (
    *(".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst"),
    *(".zip", ".7z", ".rar", ".lz4", ".cab", ".iso"),
)

_GZIP = b"\x1f\x8b"
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip",
    b"PK\x05\x06": "a zip",
    b"BZh": "a bzip2",
    b"\xfd7zXZ\0": "an xz",
    b"\x28\xb5\x2f\xfd": "a Zstandard",
    b"7z\xbc\xaf\x27\x1c": "a 7z",
    b"Rar!\x1a\x07": "a RAR",
}


def is_archive_name(name: str) -> bool:
    """Return whether a file of this name is an archive or a compressed file."""
    return name.lower().endswith(_ARCHIVE_SUFFIXES)


def extract_archive(
    archive: BinaryIO | Path, destination: Path, limits: ArchiveLimits | None = None
) -> list[ExtractedFile]:
    """Unpack a tar or tar.gz below the new folder `destination` and return its files in their order.

    Owners, modes and times of the archive are ignored. `destination` must not exist, or be empty;
    when anything goes wrong, it is removed.

    Raises:
        ArchiveError: broken, cut off, nested, or with links, devices or names that lead elsewhere.
        TooLarge: more members or bytes than `limits` allow.
        StorageFull: no room left.
    """
    if isinstance(archive, Path):
        with archive.open("rb") as stream:
            return extract_archive(stream, destination, limits)
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    try:
        with full_disk_as_storage_full("unpack the archive"):
            destination.mkdir(parents=True, exist_ok=True)
            with Tree(destination, limits or ArchiveLimits()) as tree:
                return _extract(archive, tree)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        raise


def _extract(archive: BinaryIO, tree: Tree) -> list[ExtractedFile]:
    source = _Source(archive, tree.limits)
    reader = TarReader(source)
    files = []
    for member in reader:
        source.reading = show_name(member.name)
        path = checked_path(member, tree.limits)
        if member.kind is MemberKind.FOLDER:
            # why: an old writer's folder may come with (useless) content.
            for _ in reader.chunks(member):
                pass
            tree.add_folder(path)
            continue
        if member.size_bytes > tree.limits.max_file_bytes:
            raise TooLarge(
                f"The archive member {source.reading} has {member.size_bytes} bytes, more than the "
                f"{tree.limits.max_file_bytes} that a file may have.",
                hint="Leave it out or split it.",
            )
        descriptor = tree.create_file(path)
        try:
            for chunk in reader.chunks(member):
                write_all(descriptor, chunk)
        finally:
            os.close(descriptor)
        files.append(ExtractedFile("/".join(path), member.size_bytes))
    if not files:
        raise ArchiveError("The archive holds no file.")
    return files


def write_all(descriptor: int, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[os.write(descriptor, left) :]


def checked_path(member: Member, limits: ArchiveLimits) -> tuple[str, ...]:
    """Return the parts of the member's path below the destination; none for the destination itself."""
    shown = show_name(member.name)

    def refused(why: str, hint: str | None = None) -> ArchiveError:
        return ArchiveError(f"The archive member {shown} {why}.", hint=hint)

    try:
        name = member.name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise refused("has a name that is not UTF-8") from error
    if name.startswith("/"):
        raise refused("has an absolute path", "Pack with relative paths: `tar -C FOLDER -czf set.tar.gz .`")
    if "\\" in name:
        raise refused("has a backslash in its name")
    if problem := name_problem(name):
        raise refused(problem)
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise refused("leads out of the archive with `..`")
    if len(parts) > limits.max_depth:
        raise refused(f"lies deeper than {limits.max_depth} folders")
    if len(member.name) > limits.max_path_bytes or any(len(p.encode()) > limits.max_name_bytes for p in parts):
        raise refused(
            "has a name that is too long", f"Up to {limits.max_name_bytes} bytes, {limits.max_path_bytes} with folders."
        )
    if member.kind is MemberKind.FILE:
        if not parts:
            raise refused("has no name")
        if not limits.allow_archives and is_archive_name(parts[-1]):
            raise refused("is an archive itself", "Unpack it and pack its files instead; archives inside are not read.")
    return parts


class _Counted(io.RawIOBase):
    """Counts what is read from a stream that may know no more than `read`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        chunk = self._stream.read(len(view))
        view[: len(chunk)] = chunk
        self.count += len(chunk)
        return len(chunk)


class _Source:
    """The plain tar bytes of an upload; refuses other kinds, and more bytes than the limits allow."""

    def __init__(self, archive: BinaryIO, limits: ArchiveLimits) -> None:
        self.reading = "its first member"
        self._limits = limits
        self._packed = _Counted(archive)
        self._unpacked_bytes = 0
        self._stream: io.BufferedReader[io.RawIOBase] = io.BufferedReader(self._packed, _BUFFER)
        start = self._stream.peek(len(_GZIP))
        if not start:
            raise ArchiveError("The archive is empty.")
        _refuse_other_kinds(start)
        if start.startswith(_GZIP):
            plain = gzip.GzipFile(fileobj=self._stream, mode="rb")
            self._stream = io.BufferedReader(cast(io.RawIOBase, plain), _BUFFER)
            with self._damage_named():
                start = self._stream.peek(len(_GZIP))
            if start.startswith(_GZIP):
                raise ArchiveError("The archive is compressed twice.")
            _refuse_other_kinds(start)

    def read(self, size: int) -> bytes:
        with self._damage_named():
            chunk = self._stream.read(size)
        self._unpacked_bytes += len(chunk)
        limits = self._limits
        if self._unpacked_bytes > limits.max_total_bytes:
            raise TooLarge(
                f"The archive unpacks to more than {limits.max_total_bytes} bytes, reached at {self.reading}.",
                hint="Send the data set in several smaller uploads.",
            )
        if self._unpacked_bytes > max(limits.ratio_from_bytes, limits.max_ratio * self._packed.count):
            raise ArchiveError(
                f"The archive unpacks to more than {limits.max_ratio:g} times its size, reached at {self.reading}.",
                hint="Send a plain .tar.",
            )
        return chunk

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except EOFError as error:
            raise ArchiveError(f"The archive is cut off at {self.reading}: its gzip stream has no end.") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ArchiveError(f"The archive is damaged at {self.reading}: {error}.") from error


def _refuse_other_kinds(start: bytes) -> None:
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise ArchiveError(f"The upload is {kind} archive, which is not read here.")


class Tree:
    """Writes below one folder by descriptors alone, so that no path can lead out of it."""

    def __init__(self, root: Path, limits: ArchiveLimits) -> None:
        self.limits = limits
        self._members = 0
        self._root = os.open(root, _FOLDER)
        # why: members come folder by folder, so that one open folder saves nearly all walks from the root.
        self._last: tuple[tuple[str, ...], int] | None = None

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_last()
        os.close(self._root)

    def add_folder(self, path: tuple[str, ...]) -> None:
        self._count(path)
        self._folder(path)

    def create_file(self, path: tuple[str, ...]) -> int:
        """Return a descriptor of the new file, for the caller to close."""
        self._count(path)
        parent = self._folder(path[:-1])
        try:
            return os.open(
                path[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent
            )
        except FileExistsError as error:
            raise ArchiveError(f"The archive holds {show_name('/'.join(path))} twice.") from error

    def _folder(self, path: tuple[str, ...]) -> int:
        """Return a descriptor of the folder, which is made when it is not there; it stays ours."""
        if not path:
            return self._root
        if self._last and self._last[0] == path:
            return self._last[1]
        current = os.dup(self._root)
        try:
            for depth, part in enumerate(path, start=1):
                inner = self._enter(current, part, path[:depth])
                os.close(current)
                current = inner
        except BaseException:
            os.close(current)
            raise
        self._close_last()
        self._last = (path, current)
        return current

    def _enter(self, parent: int, name: str, path: tuple[str, ...]) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=parent)
        except FileNotFoundError:
            self._count(path)
            os.mkdir(name, 0o755, dir_fd=parent)
            return os.open(name, _FOLDER, dir_fd=parent)
        except NotADirectoryError as error:
            raise ArchiveError(f"The archive holds {show_name('/'.join(path))} as a file and as a folder.") from error

    def _close_last(self) -> None:
        if self._last:
            os.close(self._last[1])
            self._last = None

    def _count(self, path: tuple[str, ...]) -> None:
        self._members += 1
        if self._members > self.limits.max_members:
            raise TooLarge(
                f"The archive holds more than {self.limits.max_members} files and folders, "
                f"reached at {show_name('/'.join(path))}.",
                hint="Send the data set in several smaller uploads.",
            )

"""Unpack an uploaded zip with the care of `archive`: whatever it says of itself is checked, and no path leads out."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from ..schemas.errors import ArchiveError, TooLarge
from .archive import ArchiveLimits, ExtractedFile, Tree, checked_path, extract_archive, write_all
from .disk import full_disk_as_storage_full
from .tar_stream import Member, MemberKind, show_name

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_ENTRY = b"PK\x01\x02"
_END, _END_64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_END_64_BYTES, _LOCATOR_BYTES = 56, 20
_END_BYTES, _COMMENT_BYTES = 22, 65_535
#: The list of all members is read into memory at once.
_DIRECTORY_MAX_BYTES = 32 * 2**20
_CHUNK = 2**18
_ENCRYPTED = 0x1
#: What Python says of zips that are none; it also seeks to where no file begins.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, ValueError, OverflowError),
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def extract_any(archive: Path, destination: Path, limits: ArchiveLimits | None = None) -> list[ExtractedFile]:
    """Unpack a zip, tar or tar.gz below the new folder `destination`; see `extract_archive`."""
    with archive.open("rb") as stream:
        is_zip = stream.read(4) in _ZIP
    return (extract_zip if is_zip else extract_archive)(archive, destination, limits)


def extract_zip(archive: Path, destination: Path, limits: ArchiveLimits | None = None) -> list[ExtractedFile]:
    """Unpack a zip below the new folder `destination` and return its files; see `extract_archive`."""
    if destination.exists() and any(destination.iterdir()):
        raise FileExistsError(f"{destination} is not empty")
    limits = limits or ArchiveLimits()
    _refuse_huge_directory(archive, limits)
    try:
        with full_disk_as_storage_full("unpack the archive"):
            destination.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(archive) as opened, Tree(destination, limits) as tree:
                return _extract(opened, archive.stat().st_size, tree)
    except BaseException as error:
        shutil.rmtree(destination, ignore_errors=True)
        if isinstance(error, _DAMAGE) or (isinstance(error, OSError) and error.errno == errno.EINVAL):
            raise ArchiveError(f"The zip is damaged: {str(error)[:200]}.", hint="Pack it again.") from error
        raise


def _extract(opened: zipfile.ZipFile, packed_bytes: int, tree: Tree) -> list[ExtractedFile]:
    limits = tree.limits
    files: list[ExtractedFile] = []
    unpacked = 0
    for info in opened.infolist():
        member = _member(info)
        path = checked_path(member, limits)
        if member.kind is MemberKind.FOLDER:
            tree.add_folder(path)
            continue
        if info.file_size > limits.max_file_bytes:
            raise TooLarge(
                f"The archive member {show_name(member.name)} has {info.file_size} bytes, more than the "
                f"{limits.max_file_bytes} that a file may have.",
                hint="Leave it out or split it.",
            )
        descriptor = tree.create_file(path)
        size = 0
        try:
            with opened.open(info) as source:
                while chunk := source.read(_CHUNK):
                    size += len(chunk)
                    unpacked += len(chunk)
                    _refuse_bomb(unpacked, packed_bytes, limits, member.name)
                    write_all(descriptor, chunk)
        finally:
            os.close(descriptor)
        files.append(ExtractedFile("/".join(path), size))
    if not files:
        raise ArchiveError("The archive holds no file.")
    return files


def _member(info: zipfile.ZipInfo) -> Member:
    """Return a member by the name that is written in the archive, which Python may have changed."""
    name = info.orig_filename
    shown = show_name(name.encode("utf-8", "replace"))
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"The archive member {shown} is encrypted.", hint="Pack without a password.")
    if info.compress_type not in _METHODS:
        raise ArchiveError(f"The archive member {shown} is compressed in an unusual way.", hint="Use deflate.")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"The archive member {shown} is a link or a device.", hint="Pack what it leads to instead.")
    is_folder = name.endswith("/")
    if is_folder != (kind == stat.S_IFDIR) and kind != 0:
        raise ArchiveError(f"The archive member {shown} is a file and a folder at once.")
    return Member(
        name=name.encode("utf-8", "surrogatepass"),
        kind=MemberKind.FOLDER if is_folder else MemberKind.FILE,
        size_bytes=info.file_size,
    )


def _refuse_bomb(unpacked: int, packed_bytes: int, limits: ArchiveLimits, name: bytes) -> None:
    if unpacked > limits.max_total_bytes:
        raise TooLarge(
            f"The archive unpacks to more than {limits.max_total_bytes} bytes, reached at {show_name(name)}.",
            hint="Leave out what is not needed.",
        )
    if unpacked > max(limits.ratio_from_bytes, limits.max_ratio * packed_bytes):
        raise ArchiveError(
            f"The archive unpacks to more than {limits.max_ratio:g} times its size, reached at {show_name(name)}.",
            hint="Send a plain .tar.",
        )


def _refuse_huge_directory(archive: Path, limits: ArchiveLimits) -> None:
    """Look at the list of members before Python makes objects of all of it."""
    size = archive.stat().st_size
    with archive.open("rb") as stream:
        start = max(0, size - _END_BYTES - _COMMENT_BYTES)
        stream.seek(start)
        tail = stream.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_BYTES:
            raise ArchiveError("The zip is cut off: its end is missing.", hint="Pack it again.")
        (directory_bytes,) = struct.unpack("<I", tail[at + 12 : at + 16])
        end = start + at
        if tail[max(0, at - _LOCATOR_BYTES) : at].startswith(_LOCATOR):
            # why not as the locator says: Python, too, takes the record that lies before it.
            end -= _LOCATOR_BYTES + _END_64_BYTES
            stream.seek(max(0, end))
            record = stream.read(_END_64_BYTES)
            if end < 0 or not record.startswith(_END_64):
                raise ArchiveError("The zip is damaged at its end.", hint="Pack it again.")
            (directory_bytes,) = struct.unpack("<Q", record[40:48])
        if directory_bytes > min(_DIRECTORY_MAX_BYTES, end):
            raise TooLarge("The zip holds too many files.", hint="Send a .tar.gz.")
        stream.seek(end - directory_bytes)
        if stream.read(directory_bytes).count(_ENTRY) > limits.max_members:
            raise TooLarge(f"The zip holds more than {limits.max_members} files and folders.")

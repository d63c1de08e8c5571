"""A reader of tar streams that trusts nothing: bounded memory, one pass, errors instead of guesses.

why not `tarfile`: the one of Python 3.11.7 reads extension headers of any size into memory, matches
them with a slow pattern (CVE-2024-6232), and loops on negative sizes (CVE-2025-8194). Formats are
those of POSIX.1-2001 (ustar, pax) and GNU tar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from ..schemas.errors import ArchiveError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_SPARSE = b"GNU.sparse."
_CHUNK = 2**20

#: An extension header (a long name, pax records) of more bytes is refused.
MAX_EXTENSION_BYTES = 2**20


class Readable(Protocol):
    """Where tar bytes come from; `read` may give fewer bytes than asked and gives none at the end."""

    def read(self, size: int, /) -> bytes: ...


class MemberKind(StrEnum):
    FILE = "file"
    FOLDER = "folder"


_KINDS = {b"0": MemberKind.FILE, b"\0": MemberKind.FILE, b"7": MemberKind.FILE, b"5": MemberKind.FOLDER}
_REFUSED = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a named pipe",
    b"S": "a sparse file",
    b"M": "a part of a file that goes on in another volume",
    b"V": "a volume label",
}


@dataclass(frozen=True, slots=True)
class Member:
    """A file or folder of an archive. `name` is as written there: not checked, may be hostile."""

    name: bytes
    kind: MemberKind
    size_bytes: int


class TarReader:
    """Reads the members of the tar stream `source` one after the other.

    `for member in reader:` must be accompanied by reading all `reader.chunks(member)` of each file.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            ArchiveError: the stream is no tar, is cut off, or holds more than files and folders.
        """
        long_name: bytes | None = None
        for_next: dict[bytes, bytes] = {}
        for_all: dict[bytes, bytes] = {}
        first = True
        while True:
            header = self._read(BLOCK, "the header of the next member")
            if header == _ZEROS:
                break
            if not _checksum_fits(header):
                raise ArchiveError(
                    "The upload is not a tar archive."
                    if first
                    else "The archive is damaged: the header of a member has a wrong checksum."
                )
            first = False
            name = _name(header)
            type_flag, size_bytes = header[156:157], _number(header[124:136], name)
            if type_flag in b"LKxg":
                extension = self._read_extension(size_bytes)
                if type_flag == b"L":
                    long_name = extension.rstrip(b"\0")
                elif type_flag == b"x":
                    for_next = _pax_records(extension)
                elif type_flag == b"g":
                    for_all |= _pax_records(extension)
                continue
            pax = for_all | for_next
            name = pax.get(b"path", long_name if long_name is not None else name)
            if b"size" in pax:
                size_bytes = _pax_size(pax[b"size"], name)
            if _SPARSE in pax:
                type_flag = b"S"
            long_name, for_next = None, {}
            yield _member(name, type_flag, size_bytes)
        self._expect_only_zeros()

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Yield the content of `member`, the member that was yielded last, in pieces of at most 1 MiB."""
        left = member.size_bytes
        while left:
            chunk = self._source.read(min(left, _CHUNK))
            if not chunk:
                raise ArchiveError(f"The archive is cut off inside {show_name(member.name)}.")
            left -= len(chunk)
            yield chunk
        self._read(-member.size_bytes % BLOCK, show_name(member.name))

    def _read(self, size: int, what: str) -> bytes:
        parts, left = [], size
        while left:
            part = self._source.read(left)
            if not part:
                raise ArchiveError(f"The archive is cut off where {what} should be.")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _read_extension(self, size_bytes: int) -> bytes:
        if size_bytes > MAX_EXTENSION_BYTES:
            raise ArchiveError(
                f"The archive has a header of {size_bytes} bytes.", hint="Pack it again with plain names."
            )
        content = self._read(size_bytes, "an extension header")
        self._read(-size_bytes % BLOCK, "an extension header")
        return content

    def _expect_only_zeros(self) -> None:
        # why: reading to the end also verifies the checksum of a gzip stream.
        while chunk := self._source.read(_CHUNK):
            if chunk.count(0) != len(chunk):
                raise ArchiveError(
                    "The archive goes on behind its end mark.", hint="Send each archive as an upload of its own."
                )


def show_name(name: bytes | str) -> str:
    """Return a member's name for a message: quoted, escaped and not too long."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    text = text if len(text) <= 120 else f"{text[:60]}...{text[-50:]}"
    return ascii(text) if not text.isprintable() else repr(text)


def _member(name: bytes, type_flag: bytes, size_bytes: int) -> Member:
    if type_flag not in _KINDS:
        what = _REFUSED.get(type_flag, f"of the unknown type {type_flag!r}")
        raise ArchiveError(f"The archive member {show_name(name)} is {what}.")
    kind = _KINDS[type_flag]
    if kind is MemberKind.FILE and name.endswith(b"/"):
        # why: tar before POSIX had no type for folders.
        kind = MemberKind.FOLDER
    return Member(name, kind, 0 if type_flag == b"5" else size_bytes)


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    # why: GNU tar writes `ustar  ` and keeps times where POSIX has the prefix.
    if header[257:263] == b"ustar\0":
        prefix = header[345:500].split(b"\0", 1)[0]
        return prefix + b"/" + name if prefix else name
    return name


def _checksum_fits(header: bytes) -> bool:
    try:
        stored = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    body = header[:148] + b" " * 8 + header[156:]
    # why: some old writers summed signed bytes.
    return stored in {sum(body), sum(body) - 256 * sum(byte > 127 for byte in body)}


def _number(field: bytes, name: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise ArchiveError(f"The archive member {show_name(name)} has a broken size.")
    return int(digits, 8)


def _pax_size(value: bytes, name: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise ArchiveError(f"The archive member {show_name(name)} has a broken size.")
    return int(value)


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of a pax header that matter here, each written `<length> <key>=<value>\\n`."""
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(content) and content[start] != 0:
        space = content.find(b" ", start, start + 10)
        digits = content[start:space] if space > 0 else b""
        end = start + int(digits) if digits.isdigit() else 0
        if end <= space + 1 or end > len(content) or content[end - 1 : end] != b"\n":
            raise ArchiveError("The archive has a broken extension header.")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise ArchiveError("The archive has a broken extension header.")
        if key in {b"path", b"size"}:
            records[key] = value
        elif key.startswith(_SPARSE):
            records[_SPARSE] = value
        start = end
    return records

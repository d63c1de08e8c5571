"""Zips of strangers; what all archives have in common is in test_archive."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from prefect_trainyard.datasets.archive import ArchiveLimits
from prefect_trainyard.datasets.zip_archive import extract_any, extract_zip
from prefect_trainyard.schemas.errors import ArchiveError, TooLarge, YardError

LIMITS = ArchiveLimits(allow_archives=True)


def make_zip(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for name, data in members:
            packed.writestr(name, data)
    return content.getvalue()


def extract(content: bytes, folder: Path, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
    archive, out = folder / "archive", folder / "out"
    archive.write_bytes(content)
    files = extract_any(archive, out, limits)
    return {file.path: (out / file.path).read_bytes() for file in files}


def assert_refused(content: bytes, folder: Path, limits: ArchiveLimits = LIMITS) -> YardError:
    with pytest.raises((ArchiveError, TooLarge)) as caught:
        extract(content, folder, limits)
    assert not (folder / "out").exists()
    return caught.value


def test_files_come_out_as_packed(tmp_path: Path) -> None:
    big = random.Random(1).randbytes(700_001)
    content = make_zip(("a/", b""), ("a/ä 1.txt", b"1"), ("b/c/d.bin", big), ("empty", b""), ("inner.zip", b"PK"))
    assert extract(content, tmp_path) == {"a/ä 1.txt": b"1", "b/c/d.bin": big, "empty": b"", "inner.zip": b"PK"}
    assert (tmp_path / "out" / "a").is_dir()


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path: Path, compression: int) -> None:
    assert "unusual" in str(assert_refused(make_zip(("a", b"1"), compression=compression), tmp_path))


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/a", "a\\b", "a\x01", "a\u202eb", "x" * 300, "d/" * 40 + "a"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    assert_refused(make_zip(("good", b"1"), (name, b"2")), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]


def test_name_that_python_would_cut_is_refused(tmp_path: Path) -> None:
    content = make_zip(("good.txtXevil", b"1")).replace(b"good.txtX", b"good.txt\0")
    assert_refused(content, tmp_path)


def test_limits_count_members_bytes_and_ratio(tmp_path: Path) -> None:
    many = make_zip(*((f"f{n}", b"") for n in range(50)))
    assert_refused(many, tmp_path, ArchiveLimits(max_members=49))
    assert "file may have" in str(
        assert_refused(make_zip(("a", bytes(100))), tmp_path, ArchiveLimits(max_file_bytes=99))
    )
    two = make_zip(("a", bytes(60)), ("b", bytes(60)))
    assert "more than 100 bytes" in str(assert_refused(two, tmp_path, ArchiveLimits(max_total_bytes=100)))
    zeros = make_zip(("a", bytes(10**6)))
    assert "times its size" in str(assert_refused(zeros, tmp_path, ArchiveLimits(ratio_from_bytes=10**5)))


def test_size_that_lies_does_not_help_a_bomb(tmp_path: Path) -> None:
    content = bytearray(make_zip(("a", bytes(10**6))))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(signature) + offset
        content[at : at + 4] = struct.pack("<I", 10)
    assert_refused(bytes(content), tmp_path)


def test_directory_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entry = b"PK\x01\x02" + bytes(42)
    directory = entry * 100_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), 0, 0)
    assert "holds more than" in str(
        assert_refused(b"PK\x03\x04" + directory + end, tmp_path, ArchiveLimits(max_members=1000))
    )
    end_64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), 4)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, 4 + len(directory), 1)
    small = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, 46, 0, 0)
    hidden = b"PK\x03\x04" + directory + end_64 + locator + small
    assert "holds more than" in str(assert_refused(hidden, tmp_path, ArchiveLimits(max_members=1000)))


def test_members_that_share_their_bytes_are_refused_or_counted(tmp_path: Path) -> None:
    """Many entries that point to one compressed file: the bomb that has no nested archives."""
    content = make_zip(("a", bytes(200_000)))
    start = content.index(b"PK\x01\x02")
    entry = content[start : content.index(b"PK\x05\x06")]
    entries = b"".join(entry[:46] + bytes([97 + n]) for n in range(20))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 20, 20, len(entries), start, 0)
    assert_refused(content[:start] + entries + end, tmp_path, ArchiveLimits(max_total_bytes=2_000_000))


def test_damage_anywhere_is_an_error_of_ours_or_harmless(tmp_path: Path) -> None:
    good = make_zip(("a/b.txt", b"some text " * 30), ("c.bin", bytes(range(256))))
    rng = random.Random(7)
    for number in range(400):
        content = bytearray(good[: rng.randrange(len(good))] if number % 4 == 0 else good)
        for _ in range(rng.randrange(1, 4)):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            extract(bytes(content), folder)
        except YardError as error:
            assert 400 <= error.status < 500
            assert not (folder / "out").exists()
        assert {path.name for path in folder.iterdir()} <= {"archive", "out"}


def test_zip_that_is_meant_as_such_is_no_tar(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"\x1f\x8b hello")
    with pytest.raises(ArchiveError):
        extract_zip(tmp_path / "archive", tmp_path / "out")

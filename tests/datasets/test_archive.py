from __future__ import annotations

import contextlib
import errno
import gzip
import io
import os
import random
import socket
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect_trainyard.datasets.archive import ArchiveLimits, ExtractedFile, extract_archive
from prefect_trainyard.schemas.errors import ArchiveError, StorageFull, TooLarge, YardError


def extract(content: bytes, destination: Path, limits: ArchiveLimits | None = None) -> list[ExtractedFile]:
    return extract_archive(io.BytesIO(content), destination, limits)


def assert_refused(content: bytes, tmp_path: Path, *words: str, limits: ArchiveLimits | None = None) -> YardError:
    """Check that nothing is left anywhere below `tmp_path`, and that the message has the words."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ArchiveError, TooLarge)) as caught:
        extract(content, tmp_path / "out", limits)
    assert sorted(tmp_path.rglob("*")) == before
    for word in words:
        assert word in str(caught.value)
    assert 400 <= caught.value.status < 500
    return caught.value


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_and_folders_come_out_as_packed(tmp_path: Path, make_tar, packed: bool, format: int) -> None:
    long = "a" * 60 + "/" + "b" * 60 + "/" + "c" * 70 + ".png"
    big = random.Random(1).randbytes(3_000_001)
    content = make_tar("x/", ("x/one.png", b"1"), (long, big), ("empty.png", b""), packed=packed, format=format)

    files = extract(content, tmp_path / "out")

    assert [(f.path, f.size_bytes) for f in files] == [("x/one.png", 1), (long, len(big)), ("empty.png", 0)]
    assert (tmp_path / "out" / long).read_bytes() == big
    assert (tmp_path / "out" / "x/one.png").read_bytes() == b"1"


@pytest.mark.parametrize("flags", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"], ["-z"]])
def test_archives_of_the_tar_program_are_read(tmp_path: Path, flags: list[str]) -> None:
    source = tmp_path / "source"
    for name in ("images/cat/ä ö.png", "images/dog/2.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    archive = tmp_path / "set.tar"
    subprocess.run(["tar", *flags, "-C", source, "-cf", archive, "."], check=True)

    files = extract_archive(archive, tmp_path / "out")

    assert sorted(f.path for f in files) == ["images/cat/ä ö.png", "images/dog/2.png"]
    assert (tmp_path / "out/images/cat/ä ö.png").read_text() == "images/cat/ä ö.png"


def test_modes_owners_and_times_of_the_archive_are_ignored(tmp_path: Path, make_tar) -> None:
    info = tarfile.TarInfo("locked.png")
    info.mode, info.uid, info.mtime = 0o4777, 12345, 1
    extract(make_tar(info), tmp_path / "out")
    status = (tmp_path / "out/locked.png").stat()
    assert status.st_mode & 0o7133 == 0
    assert status.st_uid == os.getuid()
    assert status.st_mtime > 1


def test_the_stream_of_the_caller_stays_open_and_is_read_to_its_end(tmp_path: Path, make_tar) -> None:
    stream = io.BytesIO(make_tar(("a.png", b"1"), packed=True))
    extract_archive(stream, tmp_path / "out")
    assert stream.read() == b""


def test_a_socket_that_gives_few_bytes_at_a_time_is_read(tmp_path: Path, make_tar) -> None:
    content = make_tar(("a.png", b"x" * 5000), packed=True)
    sender, receiver = socket.socketpair()
    sender.sendall(content)
    sender.close()
    with receiver, receiver.makefile("rb", buffering=7) as stream:
        assert extract_archive(stream, tmp_path / "out") == [ExtractedFile("a.png", 5000)]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("../evil.png", ".."),
        ("a/../../evil.png", ".."),
        ("a/..", ".."),
        ("/etc/evil.png", "absolute"),
        ("//evil.png", "absolute"),
        ("..\\evil.png", "backslash"),
        ("C:\\evil.png", "backslash"),
        ("a\nb.png", "print"),
        ("a\x1b[31m.png", "print"),
        ("\u202egnp.exe.png", "direction"),
        ("n" * 252 + ".png", "too long"),
        ("/".join(["d" * 100] * 12) + "/x.png", "too long"),
        ("d/" * 40 + "x.png", "deeper"),
    ],
)
def test_names_that_lead_elsewhere_or_cannot_be_written_are_refused(
    tmp_path: Path, make_tar, name: str, word: str
) -> None:
    assert_refused(make_tar(("ok.png", b"1"), (name, b"evil")), tmp_path, word)


def test_a_folder_that_leads_elsewhere_is_refused(tmp_path: Path, make_tar) -> None:
    assert_refused(make_tar("../up/", ("a.png", b"")), tmp_path, "'../up/'", "..")


def test_a_name_with_nul_from_a_pax_header_is_refused(tmp_path: Path, make_tar) -> None:
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"path": "a.png\0/../../x"}
    assert_refused(make_tar(info), tmp_path, "print")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, make_tar) -> None:
    assert_refused(make_tar(("caf\udce9.png", b""), format=tarfile.GNU_FORMAT), tmp_path, "UTF-8")


@pytest.mark.parametrize(
    "name",
    [
        "猫/一.png",
        "Ünï cödé.png",
        "e\u0301.png",
        "\U0001f469\u200d\U0001f467.png",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.png",
        "Screenshot 1\u202fPM.png",
        " .png",
        "-rf.png",
    ],
)
def test_names_of_all_languages_are_kept(tmp_path: Path, make_tar, name: str) -> None:
    assert [f.path for f in extract(make_tar((name, b"1")), tmp_path / "out")] == [name]
    assert (tmp_path / "out" / name).read_bytes() == b"1"


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
        (b"V", "volume label"),
        (b"Z", "unknown type"),
    ],
)
def test_all_but_files_and_folders_is_refused(tmp_path: Path, make_tar, kind: bytes, word: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    content = make_tar(("ok.png", b"1"), special("evil.png", kind, str(victim)), ("evil.png", b"overwritten"))
    assert_refused(content, tmp_path, word, "'evil.png'")
    assert victim.read_text() == "untouched"


def test_a_sparse_file_in_pax_form_is_refused(tmp_path: Path) -> None:
    holes = tmp_path / "holes.png"
    with holes.open("wb") as stream:
        stream.truncate(10**7)
        stream.seek(0)
        stream.write(b"x")
    archive = tmp_path / "sparse.tar"
    subprocess.run(["tar", "--sparse", "--format=pax", "-C", tmp_path, "-cf", archive, "holes.png"], check=True)
    assert_refused(archive.read_bytes(), tmp_path, "sparse")


def test_a_folder_link_cannot_redirect_later_members(tmp_path: Path, make_tar) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    content = make_tar(special("d", tarfile.SYMTYPE, str(outside)), ("d/evil.png", b"evil"))
    assert_refused(content, tmp_path, "symbolic link")
    assert list(outside.iterdir()) == []


def test_a_link_that_appears_below_the_destination_is_not_followed(tmp_path: Path, make_tar) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    content = make_tar(("a/1.png", b"1"), ("z.png", b""), ("b/2.png", b"evil"))

    class PlantsALink(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if (tmp_path / "out").exists() and not (tmp_path / "out/b").is_symlink():
                (tmp_path / "out/b").symlink_to(outside)
            return super().read(size)

    with pytest.raises(ArchiveError, match="as a file and as a folder"):
        extract_archive(PlantsALink(content), tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_a_file_twice_is_refused(tmp_path: Path, make_tar) -> None:
    assert_refused(make_tar(("a.png", b"1"), ("./a.png", b"2")), tmp_path, "'a.png' twice")


def test_a_folder_twice_is_one_folder(tmp_path: Path, make_tar) -> None:
    assert len(extract(make_tar("a/", "a/", ("a/1.png", b""), "a/"), tmp_path / "out")) == 1


@pytest.mark.parametrize(
    "names", [["a", "a/b.png"], ["a/b.png", "a"], ["a", "a/"], ["a/", "a"], ["x/a", "x/a/b/c.png"]], ids=str
)
def test_a_name_as_file_and_as_folder_is_refused(tmp_path: Path, make_tar, names: list[str]) -> None:
    members = [name if name.endswith("/") else (name, b"1") for name in names]
    assert_refused(make_tar(*members), tmp_path, "'a" if names[0][0] == "a" else "'x/a'")


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path, make_tar, packed: bool) -> None:
    content = make_tar(("images/a.png", os.urandom(900)), ("images/b.png", os.urandom(900)), packed=packed)
    # why: the end mark and padding behind the last member may be missing a part and still mark the end.
    needed = len(content) if packed else 2 * (512 + 1024) + 512
    for length in [*range(0, needed - 1, 97), needed - 1]:
        assert_refused(content[:length], tmp_path)


def test_a_damaged_gzip_is_refused(tmp_path: Path, make_tar) -> None:
    content = bytearray(make_tar(("a.png", os.urandom(5000)), packed=True))
    content[-6] ^= 0xFF
    assert_refused(bytes(content), tmp_path, "damaged")
    content[len(content) // 2] ^= 0xFF
    assert_refused(bytes(content), tmp_path)


def test_a_damaged_header_is_refused(tmp_path: Path, make_tar) -> None:
    content = bytearray(make_tar(("a.png", b"1"), ("b.png", b"2")))
    content[1024] ^= 1
    assert_refused(bytes(content), tmp_path, "checksum")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html>" * 500, bytes(range(256)) * 16, bytes(10240)], ids=lambda c: repr(c[:8])
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    assert_refused(content, tmp_path)
    assert_refused(gzip.compress(content), tmp_path)


def test_other_kinds_of_archives_are_named(tmp_path: Path, make_tar) -> None:
    import bz2
    import lzma

    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("a.png", b"1")
    plain = make_tar(("a.png", b"1"))
    assert_refused(zipped.getvalue(), tmp_path, "a zip archive", ".tar.gz")
    assert_refused(bz2.compress(plain), tmp_path, "bzip2")
    assert_refused(lzma.compress(plain), tmp_path, "xz")
    assert_refused(gzip.compress(gzip.compress(plain)), tmp_path, "twice")


@pytest.mark.parametrize("name", ["inner.tar", "x/inner.tar.gz", "inner.ZIP", "inner.7z", "inner.tgz"])
def test_an_archive_inside_is_refused_by_name(tmp_path: Path, make_tar, name: str) -> None:
    assert_refused(make_tar(("a.png", b"1"), (name, b"2")), tmp_path, name, "archive itself")


def test_data_behind_the_end_is_refused(tmp_path: Path, make_tar) -> None:
    first, second = make_tar(("a.png", b"1")), make_tar(("b.png", b"2"))
    assert_refused(first + second, tmp_path, "behind its end")
    assert_refused(gzip.compress(first) + gzip.compress(second), tmp_path, "behind its end")
    assert_refused(gzip.compress(first) + b"junk", tmp_path, "damaged")


def test_an_archive_of_folders_alone_is_refused(tmp_path: Path, make_tar) -> None:
    assert_refused(make_tar("a/", "a/b/"), tmp_path, "no file")


class TestLimits:
    def test_ratio(self, tmp_path: Path, make_tar) -> None:
        content = make_tar(("zeros.png", bytes(100 * 2**20)), packed=True)
        assert len(content) < 200_000
        assert_refused(content, tmp_path, "times its size", "zeros.png")

    def test_ratio_of_a_small_archive_does_not_matter(self, tmp_path: Path, make_tar) -> None:
        assert extract(make_tar(("mask.png", bytes(2**20)), packed=True), tmp_path / "out")

    def test_ratio_counts_what_lies_behind_the_end_mark(self, tmp_path: Path, make_tar) -> None:
        content = gzip.compress(make_tar(("a.png", b"1")) + bytes(100 * 2**20))
        assert_refused(content, tmp_path, "times its size")

    def test_total_size(self, tmp_path: Path, make_tar) -> None:
        content = make_tar(*((f"{i}.png", os.urandom(50_000)) for i in range(10)))
        error = assert_refused(content, tmp_path, "200000 bytes", limits=ArchiveLimits(max_total_bytes=200_000))
        assert isinstance(error, TooLarge)

    def test_file_size_is_refused_before_it_is_written(self, tmp_path: Path) -> None:
        for size in (5 * 2**30, 2**60):
            info = tarfile.TarInfo("huge.png")
            info.size = size
            header = info.tobuf(tarfile.GNU_FORMAT)
            assert_refused(header + bytes(10_000), tmp_path, "huge.png", str(size))

    def test_member_count(self, tmp_path: Path, make_tar) -> None:
        limits = ArchiveLimits(max_members=50)
        assert_refused(make_tar(*((f"{i}.png", b"") for i in range(51))), tmp_path, "50 files", limits=limits)
        assert_refused(make_tar(*(f"{i}/" for i in range(51))), tmp_path, "50 files", limits=limits)

    def test_folders_that_only_paths_name_count(self, tmp_path: Path, make_tar) -> None:
        members = [(f"{i}/" + "d/" * 20 + "x.png", b"") for i in range(5)]
        assert_refused(make_tar(*members), tmp_path, "60 files", limits=ArchiveLimits(max_members=60))

    @pytest.mark.parametrize("type_flag", [b"x", b"L", b"g"])
    def test_extension_headers_are_not_read_into_memory_whatever_their_size(
        self, tmp_path: Path, type_flag: bytes
    ) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.size = type_flag, 2**33
        assert_refused(info.tobuf(tarfile.GNU_FORMAT) + bytes(5000), tmp_path, "header")


@pytest.mark.parametrize(
    "records",
    [
        b"x",
        b"0 a=b\n",
        b"5 a=b\n",
        b"-1 a=b\n",
        b"99999 path=b\n",
        b"7 ab\xffd\n",
        b"1 \n",
        b"12 size=-99\n",
        b" " * 99,
    ],
)
def test_broken_pax_headers_are_refused(tmp_path: Path, make_tar, records: bytes) -> None:
    header = tarfile.TarInfo("pax")
    header.type, header.size = b"x", len(records)
    content = header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + make_tar(("a.png", b"1"))
    assert_refused(content, tmp_path)


@pytest.mark.parametrize("field", [b"-0000000001\0", b"99999999999\0", b"\xff" * 12, b"0x10\0".ljust(12, b"\0")])
def test_broken_and_negative_sizes_are_refused(tmp_path: Path, field: bytes) -> None:
    header = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert_refused(bytes(header) + bytes(4096), tmp_path, "size")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, make_tar, monkeypatch: pytest.MonkeyPatch) -> None:
    write, room = os.write, 100_000

    def write_until_full(descriptor: int, content: bytes) -> int:
        nonlocal room
        if len(content) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= len(content)
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", write_until_full)
    with pytest.raises(StorageFull, match="unpack"):
        extract(make_tar(*((f"{i}.png", bytes(30_000)) for i in range(9))), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_destination_with_files_is_left_alone(tmp_path: Path, make_tar) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        extract(make_tar(("a.png", b"")), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_no_descriptor_is_left_open(tmp_path: Path, make_tar) -> None:
    good = make_tar(*((f"{i % 3}/{i}.png", b"1") for i in range(30)))
    extract(good, tmp_path / "good")
    for content in (good[:9000], make_tar(("a", b""), ("a/b", b"")), make_tar(("a", b""), ("a", b""))):
        assert_refused(content, tmp_path)
    assert [file for file in open_files() if file.startswith(str(tmp_path))] == []


def open_files() -> list[str]:
    """Return what this process has open; by name, since others in it open and close theirs."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


_NAMES = st.text(alphabet="a./\\\0\n\u202eé", max_size=12) | st.sampled_from(
    ["../x", "/x", "a/../../x", "a", "a/b", "x.tar"]
)
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
_FUZZ = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_FUZZ
@given(
    members=st.lists(st.tuples(_NAMES, _KINDS, st.binary(max_size=700), _NAMES), max_size=6),
    flips=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=3),
    packed=st.booleans(),
)
def test_any_archive_is_read_or_refused_and_never_leaves_its_folder(
    tmp_path: Path,
    members: list[tuple[str, bytes, bytes, str]],
    flips: list[tuple[int, int]],
    packed: bool,
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content))
    mangled = bytearray(gzip.compress(buffer.getvalue(), 1) if packed else buffer.getvalue())
    for position, value in flips:
        mangled[position % len(mangled)] = value
    inside = tmp_path / "inside"
    inside.mkdir(exist_ok=True)
    out = inside / "out"
    try:
        files = extract(bytes(mangled), out)
    except (ArchiveError, TooLarge):
        assert list(tmp_path.rglob("*")) == [inside]
        return
    there = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and not p.is_symlink())
    assert sorted(f.path for f in files) == there
    assert all(p.is_dir() or p.is_file() for p in out.rglob("*"))
    assert list(inside.iterdir()) == [out]
    subprocess.run(["rm", "-r", "--", out], check=True)

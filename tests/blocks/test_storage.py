"""One contract, run on a local folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect_trainyard.blocks import ArtifactStorage, load_storage
from prefect_trainyard.schemas.errors import InvalidInput, NotFound
from pydantic import ValidationError


def test_a_file_comes_back_as_it_was(storage: ArtifactStorage) -> None:
    storage.write_bytes("acme/jobs/1/weights", b"\0\1\2")
    assert storage.read_bytes("acme/jobs/1/weights") == b"\0\1\2"
    assert storage.size("acme/jobs/1/weights") == 3
    assert storage.exists("acme/jobs/1/weights")
    with storage.open("acme/jobs/1/weights") as stream:
        stream.seek(1)
        assert stream.read(1) == b"\1"


def test_writing_again_replaces(storage: ArtifactStorage) -> None:
    storage.write_json("a/x.json", {"n": 1})
    storage.write_json("a/x.json", {"n": 2})
    assert storage.read_json("a/x.json") == {"n": 2}
    assert [f.path for f in storage.list_files("a")] == ["x.json"]


def test_append_adds_lines(storage: ArtifactStorage) -> None:
    for line in ("one\n", "two\n"):
        storage.append_text("acme/logs/1.txt", line)
    assert storage.read_bytes("acme/logs/1.txt") == b"one\ntwo\n"


def test_list_is_recursive_sorted_and_relative(storage: ArtifactStorage) -> None:
    for name in ("b/2", "a/1", "c"):
        storage.write_bytes(f"acme/data/{name}", b"xy")
    assert [(f.path, f.size_bytes) for f in storage.list_files("acme/data")] == [("a/1", 2), ("b/2", 2), ("c", 2)]
    assert storage.list_files("acme/nothing") == []


def test_folders_go_up_and_come_down(storage: ArtifactStorage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "ümlaut.txt").write_text("hello")
    (source / "top").write_text("x")
    storage.upload_folder(source, "acme/up")
    storage.download_folder("acme/up", tmp_path / "down")
    assert (tmp_path / "down" / "sub" / "ümlaut.txt").read_text() == "hello"
    assert (storage.local_copy("acme/up", tmp_path / "copy") / "top").read_text() == "x"
    assert storage.local_copy("acme/up/top", tmp_path / "copy2").read_text() == "x"


def test_delete_reports_what_it_freed_and_is_idempotent(storage: ArtifactStorage) -> None:
    storage.write_bytes("acme/jobs/1/a", b"12345")
    storage.write_bytes("acme/jobs/1/b/c", b"123")
    storage.write_bytes("acme/jobs/10/a", b"1")
    assert storage.remove("acme/jobs/1") == 8
    assert storage.remove("acme/jobs/1") == 0
    assert not storage.exists("acme/jobs/1/a")
    assert storage.read_bytes("acme/jobs/10/a") == b"1"


def test_absent_things_are_not_found(storage: ArtifactStorage, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        storage.read_bytes("acme/none")
    with pytest.raises(NotFound):
        storage.local_copy("acme/none", tmp_path)
    assert not storage.exists("acme/none")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a//b", "a/./b", "a\\b", "a\0b", "..", "."])
def test_no_path_leaves_the_storage(storage: ArtifactStorage, path: str) -> None:
    for use in (storage.read_bytes, storage.exists, storage.list_files, storage.remove):
        with pytest.raises(InvalidInput):
            use(path)
    with pytest.raises(InvalidInput):
        storage.write_bytes(path, b"")


def test_addresses_of_another_storage_are_refused(storage: ArtifactStorage) -> None:
    assert storage.relative(storage.address("acme/jobs/1")) == "acme/jobs/1"
    with pytest.raises(InvalidInput):
        storage.relative("s3://elsewhere/acme")
    with pytest.raises(InvalidInput):
        storage.relative(storage.url + "/../etc")


@pytest.mark.parametrize("url", ["relative/folder", "http://host/x", "s3://", "", "file://"])
def test_bad_urls_are_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        ArtifactStorage(url=url)


def test_the_environment_names_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{tmp_path}/here")
    assert load_storage().url == f"file://{tmp_path}/here"


def test_traces_of_work_are_no_files(storage: ArtifactStorage, tmp_path: Path) -> None:
    for name in ("weights", ".lock", ".incoming-x"):
        (tmp_path / "up").mkdir(exist_ok=True)
        (tmp_path / "up" / name).write_text("x")
    storage.upload_folder(tmp_path / "up", "acme/up")
    storage.write_bytes("acme/up/.lock", b"")
    assert [file.path for file in storage.list_files("acme/up")] == ["weights"]

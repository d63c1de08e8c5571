"""Uploads: pieces merge, bad ones leave nothing, one at a time."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import sqlite3
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from facade_support import UPLOAD_MAX_BYTES, Member, image_png, image_tar, make_tar, serve
from prefect_trainyard.api.multipart import Body, receive_file
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.schemas.errors import StorageFull
from starlette.requests import Request
from support import poll

UPLOADED = {"message": "Server recieved file and upload process started"}


def manifest(member: Member, dataset_id: str) -> dict:
    return dict(member.facade.storage.read_json(f"{member.org}/datasets/{dataset_id}/raw.json"))


def assert_empty(member: Member, dataset_id: str) -> None:
    """Nothing is left of an upload: no file, no half-received archive, no changed status."""
    assert member.facade.files_of(f"{member.org}/datasets") == []
    assert not [f for f in (member.facade.settings.home / "storage" / ".incoming").rglob("*") if f.is_file()]
    assert member.client.get(f"datasets/{dataset_id}").json()["status"] == "not_present"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_upload_fills_a_dataset_and_says_so_word_for_word(ann, mode: str) -> None:
    dataset_id = ann.dataset()
    answer = ann.upload(dataset_id, image_tar(["cat", "dog"], mode=mode))
    assert (answer.status_code, answer.json()) == (201, UPLOADED)
    assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "present"
    assert manifest(ann, dataset_id)["classes"] == {"cat": 2, "dog": 2}
    assert ann.facade.files_of(f"{ann.org}/datasets/{dataset_id}/raw") == [
        f"images/{name}/{i}.png" for name in ("cat", "dog") for i in (0, 1)
    ]


def test_pieces_of_a_set_merge_whatever_their_leading_folders(ann) -> None:
    dataset_id = ann.dataset()
    pieces = [
        make_tar({"a/b/images/cat/1.png": image_png(1)}),
        make_tar({"images/dog/1.png": image_png(2), "images/cat/2.png": image_png(3)}),
        make_tar({"classes.txt": b"dog\ncat\nowl\n", "images/owl/1.png": image_png(4)}),
        make_tar({"images/cat/1.png": image_png(5)}),
    ]
    digests = set()
    for piece in pieces:
        assert ann.upload(dataset_id, piece).status_code == 201
        digests.add(manifest(ann, dataset_id)["digest"])
    assert len(digests) == len(pieces)
    assert manifest(ann, dataset_id)["classes"] == {"dog": 1, "cat": 2, "owl": 1}
    stored = ann.facade.storage.read_bytes(f"{ann.org}/datasets/{dataset_id}/raw/images/cat/1.png")
    assert stored == image_png(5)


def test_a_bad_piece_leaves_the_earlier_ones_as_they_were(ann) -> None:
    dataset_id = ann.filled()
    before, files = manifest(ann, dataset_id), ann.facade.files_of(ann.org)
    bad = [
        make_tar({"images/cat/9.png": image_png(), "images/cat/0.png": b"no image"}),
        make_tar({"classes.txt": b"cat\n", "images/cat/9.png": image_png()}),
        image_tar(["owl"])[:-100],
    ]
    for piece in bad:
        assert ann.upload(dataset_id, piece).status_code == 400
        assert manifest(ann, dataset_id) == before
        assert ann.facade.files_of(ann.org) == files
        assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "present"


def special_tar(**fields: object) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        info = tarfile.TarInfo("images/cat/0.png")
        for name, value in fields.items():
            setattr(info, name, value)
        tar.addfile(info)
    return content.getvalue()


def a_zip() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("images/cat/0.png", image_png())
    return content.getvalue()


BAD_ARCHIVES = {
    "empty": b"",
    "text": b"hello",
    "gzip of nothing": gzip.compress(b""),
    "gzip of text": gzip.compress(b"hello" * 200),
    "cut gzip": image_tar(["cat", "dog"])[:-20],
    "cut tar": image_tar(["cat", "dog"], mode="w")[:1000],
    "zip": a_zip(),
    "no files": make_tar({}),
    "traversal": make_tar({"../../evil.png": image_png()}),
    "traversal inside": make_tar({"images/cat/../../../evil.png": image_png()}),
    "absolute": make_tar({"/tmp/evil.png": image_png()}),
    "backslash": make_tar({"images\\cat\\0.png": image_png()}),
    "symlink": special_tar(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "hard link": special_tar(type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": special_tar(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "fifo": special_tar(type=tarfile.FIFOTYPE),
    "nested": make_tar({"images/cat/0.png": image_png(), "images/more.tar.gz": image_tar(["dog"])}),
    "bomb": gzip.compress(make_tar({"images/cat/0.png": b"\0" * 80_000_000}, mode="w")),
    "image that does not decode": make_tar({"images/cat/0.png": image_png()[:40]}),
    "empty image": make_tar({"images/cat/0.png": b""}),
    "text for an image": make_tar({"images/cat/0.png": b"GIF89a?"}),
    "program": make_tar({"images/cat/0.png": image_png(), "run.sh": b"#!/bin/sh"}),
    "pickle": make_tar({"images/cat/0.png": image_png(), "x.pkl": b"cos\nsystem\n(S'id'\ntR."}),
    "no class folders": make_tar({"images/0.png": image_png()}),
    "labels without images": make_tar({"classes.txt": b"cat\ndog\n"}),
}


@pytest.mark.parametrize("archive", BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys())
def test_refuses_a_bad_archive_and_leaves_nothing_behind(ann, archive: bytes) -> None:
    dataset_id = ann.dataset()
    answer = ann.upload(dataset_id, archive)
    assert answer.status_code in (400, 413), answer.text
    assert set(answer.json()) == {"error_desc", "error_code"} and len(answer.json()["error_desc"]) > 20
    assert_empty(ann, dataset_id)
    assert not Path("/tmp/evil.png").exists()


BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
BAD_BODIES = {
    "not multipart": ({}, image_tar(["cat"])),
    "json": ({"content-type": "application/json"}, b"{}"),
    "no boundary": ({"content-type": "multipart/form-data"}, b"--b--"),
    "empty": (BOUNDARY, b""),
    "no such boundary": (BOUNDARY, b"--c\r\n\r\n--c--\r\n"),
    "other field": (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nx\r\n--b--\r\n'),
    "cut off": (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx'),
    "two files": (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n' * 2 + b"--b--\r\n"),
    "endless header": (BOUNDARY, b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n"),
}


@pytest.mark.parametrize(("headers", "body"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_refuses_a_body_that_is_no_upload(ann, headers: dict[str, str], body: bytes) -> None:
    dataset_id = ann.dataset()
    answer = ann.client.post(f"datasets/{dataset_id}:upload", headers=headers, content=body)
    assert answer.status_code == 400, answer.text
    assert_empty(ann, dataset_id)


@pytest.mark.parametrize("chunked", [False, True])
def test_refuses_more_bytes_than_allowed(ann, chunked: bool) -> None:
    dataset_id = ann.dataset()
    head = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
    body = [head, *[b"x" * 100_000] * (UPLOAD_MAX_BYTES // 100_000 + 1), b"\r\n--b--\r\n"]
    content = iter(body) if chunked else b"".join(body)
    answer = ann.client.post(f"datasets/{dataset_id}:upload", headers=BOUNDARY, content=content)
    assert answer.status_code == 413, answer.text
    assert str(UPLOAD_MAX_BYTES) in answer.json()["error_desc"]
    assert_empty(ann, dataset_id)


def test_wrong_layout_names_what_was_found(ann) -> None:
    dataset_id = ann.dataset()
    answer = ann.upload(dataset_id, make_tar({"images/a.png": image_png(), "images/b.png": image_png()}))
    assert answer.status_code == 400
    assert "images/a.png" in answer.json()["error_desc"] and "images/<class>" in answer.json()["error_desc"]


def test_raw_images_need_no_class_folders(ann) -> None:
    dataset_id = ann.dataset("raw")
    assert ann.upload(dataset_id, make_tar({"a.png": image_png(), "deep/er/b.png": image_png()})).status_code == 201
    assert manifest(ann, dataset_id)["classes"] == {}


def half_sent(member: Member, dataset_id: str, body: bytes) -> socket.socket:
    """Return a connection on which half of an upload has been sent."""
    address = urlsplit(member.facade.url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=20)
    path = f"/api/v1/users/{member.user_id}/datasets/{dataset_id}:upload"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {member.token}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[: len(body) // 2])

    def receiving() -> bool:
        return member.client.get(f"datasets/{dataset_id}").json()["status"] == "in_progress"

    poll(receiving, "the upload to begin", 30)
    return connection


def test_second_upload_while_the_first_is_going_on_is_a_conflict(ann) -> None:
    dataset_id = ann.dataset()
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + image_tar(["cat", "dog"]) + b"\r\n--b--\r\n"
    with half_sent(ann, dataset_id, body) as connection:
        second = ann.upload(dataset_id, image_tar(["owl"]))
        assert second.status_code == 409, second.text
        assert ann.client.delete(f"datasets/{dataset_id}").status_code == 409
        connection.sendall(body[len(body) // 2 :])
        assert connection.recv(20).startswith(b"HTTP/1.1 201")
    assert manifest(ann, dataset_id)["classes"] == {"cat": 2, "dog": 2}
    assert ann.upload(dataset_id, image_tar(["owl"])).status_code == 201


def test_an_upload_that_breaks_off_leaves_nothing_behind(ann) -> None:
    dataset_id = ann.dataset()
    half_sent(ann, dataset_id, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 5000).close()

    def released() -> bool:
        return ann.client.get(f"datasets/{dataset_id}").json()["status"] == "not_present"

    poll(released, "the broken upload to be given up", 30)
    assert_empty(ann, dataset_id)
    assert ann.upload(dataset_id, image_tar(["cat"])).status_code == 201


@pytest.fixture
def full_disk(prefect_server, tmp_path: Path):
    """A facade that must leave more room on the disk than there is."""
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=1 << 62)
    yield from serve(settings, prefect_server)


def test_full_disk_is_507_and_leaves_nothing_behind(full_disk) -> None:
    member = full_disk.member()
    dataset_id = member.dataset()
    answer = member.upload(dataset_id, image_tar(["cat"]))
    assert answer.status_code == 507
    assert answer.json()["error_code"] == 507 and "free" in answer.json()["error_desc"].lower()
    assert_empty(member, dataset_id)


def test_disk_that_fills_up_while_receiving_is_told() -> None:
    """`/dev/full` is a disk without room."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + b"x" * 3_000_000 + b"\r\n--b--\r\n"

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    request = Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)
    with pytest.raises(StorageFull, match="No room left"):
        asyncio.run(receive_file(Body(request), Path("/dev/full"), 10_000_000))


def test_upload_that_a_killed_facade_left_is_undone_at_start(prefect_server, tmp_path: Path) -> None:
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0)
    first = serve(settings, prefect_server)
    facade = next(first)
    member = facade.member(org="acme")
    dataset_id = member.filled()
    first.close()
    storage, folder = facade.storage, f"acme/datasets/{dataset_id}"
    # what a kill -9 between the first moved file and the manifest leaves
    storage.write_bytes(f"{folder}/raw/images/owl/1.png", image_png())
    (tmp_path / "storage" / ".incoming" / "x").mkdir(parents=True)
    (tmp_path / "storage" / ".incoming" / "x" / "archive").write_bytes(b"half")
    with sqlite3.connect(tmp_path / "catalog.db") as database:
        database.execute("UPDATE datasets SET status = 'receiving'")
    database.close()
    second = serve(settings, prefect_server)
    facade = next(second)
    again = facade.member(org="acme")
    assert again.client.get(f"datasets/{dataset_id}").json()["status"] == "present"
    assert not storage.exists(f"{folder}/raw/images/owl/1.png")
    assert not (tmp_path / "storage" / ".incoming" / "x").exists()
    second.close()


def test_upload_to_an_unknown_dataset_is_not_found(ann) -> None:
    assert ann.upload(str(uuid4()), image_tar(["cat"])).status_code == 404

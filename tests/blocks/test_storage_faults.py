"""What a storage that has faults does to those who use it: nothing, unless it stays away."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.schemas.errors import NotFound, Unavailable

BIG = os.urandom(300_000)


@pytest.fixture
def proxy(s3_url: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_url) as proxy:
        yield proxy


@pytest.fixture
def storage(s3_storage: ArtifactStorage, proxy: FaultyProxy) -> ArtifactStorage:
    return ArtifactStorage(
        url=s3_storage.url,
        endpoint_url=proxy.url,
        access_key=s3_storage.access_key,
        secret_key=s3_storage.secret_key,
    ).patient(20)


@pytest.mark.parametrize("fault", ["500", "503", "cut", "short", "away"])
def test_what_is_read_is_whole(storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path, fault: Fault) -> None:
    for name in ("a", "b"):
        storage.write_bytes(f"acme/data/{name}", BIG)

    def once_per_get(method: str, path: str) -> Fault | None:
        return fault if method == "GET" and path not in seen and not seen.add(path) else None

    seen: set[str] = set()
    proxy.choose = once_per_get
    assert storage.read_bytes("acme/data/a") == BIG
    seen.clear()
    assert storage.local_copy("acme/data/a", tmp_path / "one").read_bytes() == BIG
    seen.clear()
    storage.download_folder("acme/data", tmp_path / "all")
    assert [(tmp_path / "all" / name).read_bytes() for name in ("a", "b")] == [BIG, BIG]
    assert proxy.made[fault] >= 3


@pytest.mark.parametrize("fault", ["500", "503", "lose", "away"])
def test_what_is_written_is_whole(
    storage: ArtifactStorage, s3_storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path, fault: Fault
) -> None:
    (tmp_path / "file").write_bytes(BIG)
    proxy.choose = lambda method, path: fault if method == "PUT" and not proxy.made[fault] % 2 else None
    storage.write_bytes("acme/bytes", BIG)
    proxy.made.clear()
    storage.upload_file(tmp_path / "file", "acme/file")
    assert proxy.made[fault]
    assert s3_storage.read_bytes("acme/bytes") == BIG
    assert s3_storage.read_bytes("acme/file") == BIG


def test_a_storage_that_stays_away_is_named(storage: ArtifactStorage, proxy: FaultyProxy) -> None:
    proxy.away = True
    impatient = storage.patient(0)
    for use in (impatient.read_bytes, impatient.exists, impatient.list_files, impatient.size, impatient.remove):
        with pytest.raises(Unavailable, match="acme"):
            use("acme/x")


def test_what_is_not_there_is_said_at_once(storage: ArtifactStorage, proxy: FaultyProxy) -> None:
    requests: list[str] = []
    proxy.choose = lambda method, path: requests.append(path)  # type: ignore[func-returns-value]
    with pytest.raises(NotFound):
        storage.read_bytes("acme/none")
    assert len(requests) < 5

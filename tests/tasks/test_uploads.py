from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_proxy import FaultyProxy, faulty_proxy
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.schemas.errors import Unavailable
from prefect_trainyard.tasks import uploads
from prefect_trainyard.tasks.uploads import Uploads


@pytest.fixture
def proxy(s3_url: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_url) as proxy:
        yield proxy


@pytest.fixture
def storage(s3_storage: ArtifactStorage, proxy: FaultyProxy) -> ArtifactStorage:
    return s3_storage.model_copy(update={"endpoint_url": proxy.url}).patient(0)


def stored(storage: ArtifactStorage) -> list[str]:
    return [file.path for file in storage.list_files("job")]


def write(work: Path, *names: str) -> list[Path]:
    for name in names:
        (work / name).write_text(name)
    return [work / name for name in names]


def test_nobody_waits_for_a_storage_that_is_away_and_everything_arrives_in_order(
    storage: ArtifactStorage, s3_storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path
) -> None:
    order: list[str] = []
    proxy.away = True
    proxy.choose = lambda method, path: order.append(path) if method == "PUT" else None  # type: ignore[func-returns-value]
    files = Uploads(storage, "job", tmp_path, [])
    files.put(write(tmp_path, "b.pth", "a.json"))
    files.put(write(tmp_path, "c"))
    assert stored(s3_storage) == []
    proxy.away = False
    files.finish()
    assert stored(s3_storage) == ["a.json", "b.pth", "c"]
    assert [path.rpartition("/")[2] for path in order] == ["b.pth", "a.json", "c"]


def test_a_storage_that_stays_away_fails_the_job_clearly(
    storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE_S", 0.5)
    proxy.away = True
    files = Uploads(storage, "job", tmp_path, [])
    files.put(write(tmp_path, "a"))
    with pytest.raises(Unavailable, match="a"):
        files.finish(60)
    proxy.away = False
    files.put([tmp_path / "a"])
    files.finish(60)


def test_an_old_checkpoint_goes_when_the_new_one_is_there(
    storage: ArtifactStorage, s3_storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path
) -> None:
    s3_storage.write_bytes("job/0.pth", b"of an earlier attempt")
    uploaded = Uploads(storage, "job", tmp_path, ["0.pth"])
    uploaded.put(write(tmp_path, "1.pth", "1.json"), replaces=True)
    uploaded.finish()
    assert stored(s3_storage) == ["1.json", "1.pth"]
    # why: of the second checkpoint a file is gone, so the first one is still the newest that is whole.
    for name in ("1.pth", "1.json"):
        (tmp_path / name).unlink()
    uploaded.put([*write(tmp_path, "2.pth"), tmp_path / "2.json"], replaces=True)
    uploaded.finish()
    assert stored(s3_storage) == ["1.json", "1.pth", "2.pth"]
    uploaded.put(write(tmp_path, "2.pth", "2.json"), replaces=True)
    uploaded.finish()
    assert stored(s3_storage) == ["2.json", "2.pth"]


def test_what_was_sent_is_not_sent_again(
    storage: ArtifactStorage, s3_storage: ArtifactStorage, proxy: FaultyProxy, tmp_path: Path
) -> None:
    puts: list[str] = []
    proxy.choose = lambda method, path: puts.append(path) if method == "PUT" else None  # type: ignore[func-returns-value]
    uploaded = Uploads(storage, "job", tmp_path, [])
    for _ in range(3):
        uploaded.put([tmp_path / "a"] if puts else write(tmp_path, "a"))
        uploaded.finish()
    assert len(puts) == 1
    (tmp_path / "a").write_text("more")
    uploaded.put([tmp_path / "a"])
    uploaded.finish()
    assert s3_storage.read_bytes("job/a") == b"more"

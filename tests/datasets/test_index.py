from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect_trainyard.datasets import disk
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.datasets.index import ImageIndex, IndexInfo, open_index
from prefect_trainyard.datasets.manifest import build_manifest
from prefect_trainyard.schemas.errors import DatasetError, StorageFull
from prefect_trainyard.schemas.reporting import SilentReporter

PATHS = [f"images/{name}/{number}.png" for name in ("cat", "dog", "emu") for number in range(7)]


@pytest.fixture
def raw(make_images) -> Path:
    return make_images(PATHS)


@pytest.fixture
def built(raw: Path, tmp_path: Path) -> Path:
    build_index(raw, "default", tmp_path / "index")
    return tmp_path / "index"


def test_it_holds_every_image_with_label_and_size(raw: Path, built: Path) -> None:
    index = open_index(built)
    assert len(index) == 21
    assert index.classes == ["cat", "dog", "emu"]
    assert index.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert index.labels.dtype == np.int64
    for i, path in enumerate(sorted(PATHS)):
        assert index.path(i) == path
        assert index.read(i) == (raw / path).read_bytes()
        with Image.open(raw / path) as image:
            assert np.array_equal(np.asarray(index.image(i)), np.asarray(image.convert("RGB")))
            assert (index.widths[i], index.heights[i]) == image.size


def test_its_facts_are_in_dataset_json(raw: Path, tmp_path: Path) -> None:
    (raw / "README.md").write_text("words")
    info = build_index(raw, "classification_pyt", tmp_path / "index")
    assert IndexInfo.model_validate_json((tmp_path / "index/dataset.json").read_bytes()) == info
    assert open_index(tmp_path / "index").info == info
    assert info.class_counts == {"cat": 7, "dog": 7, "emu": 7}
    assert info.format == "classification_pyt"
    assert info.raw_digest == build_manifest(raw, "classification_pyt").digest
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == ["dataset.json", "images.bin", "index.parquet"]


def test_the_same_input_gives_the_same_bytes(make_images, built: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    build_index(make_images(PATHS, tmp_path / "copy"), "default", again)
    for file in built.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes()


def test_the_digest_changes_with_labels_classes_and_pixels(raw: Path, built: Path, tmp_path: Path) -> None:
    digests = {open_index(built).digest}
    (raw / "classes.txt").write_text("emu\ndog\ncat\n")
    digests.add(build_index(raw, "default", tmp_path / "1").digest)
    Image.new("RGB", (3, 3)).save(raw / PATHS[0])
    digests.add(build_index(raw, "default", tmp_path / "2").digest)
    (raw / PATHS[0]).rename(raw / "images/dog/moved.png")
    digests.add(build_index(raw, "default", tmp_path / "3").digest)
    assert len(digests) == 4


def test_labels_follow_classes_txt(raw: Path, tmp_path: Path) -> None:
    (raw / "classes.txt").write_text("yak\nemu\ndog\ncat\n")
    build_index(raw, "default", tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.classes == ["yak", "emu", "dog", "cat"]
    assert index.labels.tolist() == [3] * 7 + [2] * 7 + [1] * 7


def test_a_raw_set_has_no_classes_and_labels_of_minus_one(raw: Path, tmp_path: Path) -> None:
    build_index(raw, "raw", tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.classes == []
    assert set(index.labels.tolist()) == {-1}


def test_progress_ends_at_one(raw: Path, tmp_path: Path) -> None:
    class Recorder(SilentReporter):
        fractions: Sequence[float] = ()

        def progress(self, fraction: float, message: str) -> None:
            self.fractions = [*self.fractions, fraction]

        def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
            raise AssertionError

    recorder = Recorder()
    build_index(raw, "default", tmp_path / "index", recorder)
    assert list(recorder.fractions) == sorted(recorder.fractions)
    assert recorder.fractions[-1] == 1


def test_a_second_build_replaces_the_first(raw: Path, built: Path) -> None:
    (raw / PATHS[0]).unlink()
    build_index(raw, "default", built)
    assert len(open_index(built)) == 20


@pytest.mark.parametrize("had_one", [False, True])
def test_a_broken_image_leaves_what_was_there(raw: Path, tmp_path: Path, had_one: bool) -> None:
    folder = tmp_path / "indexes"
    if had_one:
        build_index(raw, "default", folder / "index")
    (raw / PATHS[9]).write_bytes(b"broken")
    with pytest.raises(DatasetError, match=PATHS[9]):
        build_index(raw, "default", folder / "index")
    assert [p.name for p in folder.iterdir()] == (["index"] if had_one else [])
    if had_one:
        assert len(open_index(folder / "index")) == 21


def test_a_full_disk_leaves_nothing(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(StorageFull, match="indexed data set"):
        build_index(raw, "default", tmp_path / "indexes/index")
    assert list((tmp_path / "indexes").iterdir()) == []


def test_the_system_says_that_a_disk_is_full() -> None:
    with (
        pytest.raises(StorageFull, match="No room left to write"),
        disk.full_disk_as_storage_full("write"),
        Path("/dev/full").open("wb", buffering=0) as full,
    ):
        full.write(b"x")


def test_it_is_read_from_forked_and_spawned_processes(built: Path) -> None:
    index = open_index(built)
    expected = [index.read(i) for i in range(len(index))]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(index.read, range(len(index))) == expected


def test_a_pickled_index_is_small_and_opens_the_same_files(built: Path) -> None:
    index = open_index(built)
    packed = pickle.dumps(index)
    assert len(packed) < 1000
    again = pickle.loads(packed)
    assert isinstance(again, ImageIndex)
    assert again.read(3) == index.read(3)


def test_there_is_no_index(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DatasetError, match=r"no indexed data set.*convert job"):
            open_index(folder)


def _rewrite_rows(folder: Path, column: str, values: list[int]) -> None:
    table = pq.read_table(folder / "index.parquet")
    position = table.schema.get_field_index(column)
    field = table.schema.field(position)
    import pyarrow as pa

    pq.write_table(table.set_column(position, field, pa.array(values, field.type)), folder / "index.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "images.bin").write_bytes((f / "images.bin").read_bytes()[:-1]),
        lambda f: (f / "images.bin").write_bytes(b""),
        lambda f: (f / "images.bin").unlink(),
        lambda f: (f / "index.parquet").unlink(),
        lambda f: (f / "index.parquet").write_bytes(b"PAR1 no"),
        lambda f: (f / "index.parquet").write_bytes((f / "index.parquet").read_bytes()[:-40]),
        lambda f: (f / "dataset.json").write_text("{"),
        lambda f: (f / "dataset.json").write_text("{}"),
        lambda f: pq.write_table(pq.read_table(f / "index.parquet").slice(1), f / "index.parquet"),
        lambda f: pq.write_table(pq.read_table(f / "index.parquet").drop(["label"]), f / "index.parquet"),
        lambda f: _rewrite_rows(f, "offset", [0] * 21),
        lambda f: _rewrite_rows(f, "length", [-1] * 21),
        lambda f: _rewrite_rows(f, "label", [3] * 21),
        lambda f: _rewrite_rows(f, "label", [-1] * 21),
    ],
)
def test_a_damaged_index_is_refused(built: Path, damage) -> None:
    damage(built)
    with pytest.raises(DatasetError, match=r"damaged.*convert job"):
        open_index(built)


def test_an_index_of_another_version_is_refused(built: Path) -> None:
    facts = json.loads((built / "dataset.json").read_text())
    (built / "dataset.json").write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(DatasetError, match=r"version 99.*convert job"):
        open_index(built)


def test_changed_bytes_of_an_image_are_named(built: Path) -> None:
    with (built / "images.bin").open("r+b") as stream:
        stream.write(b"garbage!")
    with pytest.raises(DatasetError, match=r"images/cat/0\.png"):
        open_index(built).image(0)


def test_the_data_floor_loads_no_trainer_and_no_server() -> None:
    names = ", ".join(f"prefect_trainyard.datasets.{m}" for m in ("archive", "image_folder", "index", "manifest"))
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {names}; print(*sys.modules)"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "prefect_trainyard.datasets.index" in loaded
    assert not {"prefect", "mlflow", "torch"} & set(loaded)

"""Tables of labels beside images: what is read, what is refused, and the index that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.datasets.image_folder import canonical_paths, check_layout, scan_images
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.datasets.manifest import build_manifest
from prefect_trainyard.schemas.errors import DatasetError

TABLE = "fname,colour,shape\na.png,red,round\nb.png,blue,\nc.png,red,square\n"


@pytest.fixture
def make_set(tmp_path: Path) -> Callable[..., Path]:
    def make(
        table: str | bytes | None = TABLE,
        names: str = "abc",
        folder: str = "clothes/images_train",
        table_name: str = "clothes/train.csv",
    ) -> Path:
        root = tmp_path / "set"
        (root / folder).mkdir(parents=True)
        for i, name in enumerate(names):
            Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / folder / f"{name}.png")
        if table is not None:
            path = root / table_name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(table if isinstance(table, bytes) else table.encode())
        return root

    return make


def test_a_table_becomes_labels_of_tasks(make_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_set()
    info = build_index(root, "custom", tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert index.tasks == {"colour": ["blue", "red"], "shape": ["round", "square"]}
    assert index.task_labels.tolist() == [[1, 0], [0, -1], [1, 1]]
    assert (index.classes, index.labels.tolist()) == ([], [-1, -1, -1])
    assert info.class_counts == {"colour=blue": 1, "colour=red": 2, "shape=round": 1, "shape=square": 1}
    assert info.raw_digest == build_manifest(root, "custom").digest


def test_other_labels_are_another_version_of_the_data(make_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_set()
    first = build_index(root, "custom", tmp_path / "a")
    assert build_index(root, "custom", tmp_path / "b").digest == first.digest
    (root / "clothes/train.csv").write_text(TABLE.replace("b.png,blue,", "b.png,blue,round"))
    assert build_index(root, "custom", tmp_path / "c").digest != first.digest


@pytest.mark.parametrize(
    ("folder", "table_name"),
    [("images", "labels.csv"), ("", "train.csv"), ("pictures", "val.csv"), ("x/images", "x/images/Train.CSV")],
)
def test_a_table_may_lie_anywhere(make_set: Callable[..., Path], folder: str, table_name: str) -> None:
    found = scan_images(make_set(folder=folder, table_name=table_name), "custom")
    assert found.is_tabled
    assert [str(table) for table in found.tables] == [table_name]


def test_pieces_merge_and_only_one_needs_the_table(make_set: Callable[..., Path]) -> None:
    root = make_set()
    assert canonical_paths(root, "custom")[PurePosixPath("clothes/train.csv")] == PurePosixPath("train.csv")
    assert set(canonical_paths(root, "custom").values()) == {
        *(PurePosixPath(f"images/{name}.png") for name in "abc"),
        PurePosixPath("train.csv"),
    }
    (root / "clothes/train.csv").unlink()
    assert check_layout(root, "custom").count == 3


def test_class_folders_stay_class_folders(make_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_set(folder="images/red")
    (root / "images/blue").mkdir()
    Image.new("RGB", (8, 8)).save(root / "images/blue/d.png")
    build_index(root, "custom", tmp_path / "index")
    index = open_index(tmp_path / "index")
    assert (index.classes, index.tasks) == (["blue", "red"], {})
    assert index.task_labels.shape == (4, 0)


@pytest.mark.parametrize("format", ["default", "classification_pyt"])
def test_images_without_class_folders_are_of_no_other_format(make_set: Callable[..., Path], format: str) -> None:
    with pytest.raises(DatasetError, match="class folder"):
        scan_images(make_set(), format)


def test_spellings_that_mean_the_same(make_set: Callable[..., Path], tmp_path: Path) -> None:
    table = "\ufefffname,colour,shape\r\nimages\\a.png, red ,round\r\n\r\nx/b.png,blue,\r\nc.png,red,square\r\n"
    build_index(make_set(table), "custom", tmp_path / "index")
    assert open_index(tmp_path / "index").task_labels.tolist() == [[1, 0], [0, -1], [1, 1]]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (None, "no table with their labels"),
        ("", "line 1: there is no column"),
        ("fname\na.png\n", "line 1: there is no column"),
        ("fname,a.b\n", r"line 1: a task cannot be called 'a\.b'"),
        ("fname,x,x\n", "line 1: two columns are called 'x'"),
        (f"{TABLE}d.png,red,round\n", r"line 5: there is no image 'd\.png'"),
        (f"{TABLE}a.png,blue,round\n", r"line 5: a\.png has other labels than in clothes/train\.csv, line 2"),
        (f"{TABLE}a.png,red\n", "line 5: 2 cells, and the first line has 3"),
        ("fname,colour\na.png,red\nb.png,blue\n", r"is about clothes/images_train/c\.png"),
        ("fname,colour,shape\na.png,red,\nb.png,,\nc.png,,\n", "column shape .* is empty"),
        (b"fname,colour\na.png,\xff\n", "not UTF-8"),
        ('fname,colour\na.png,"red\n', "no CSV table"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(
    make_set: Callable[..., Path], tmp_path: Path, table: str | bytes | None, words: str
) -> None:
    with pytest.raises(DatasetError, match=words) as failure:
        build_index(make_set(table), "custom", tmp_path / "index")
    assert failure.value.hint
    assert not (tmp_path / "index").exists()


def test_two_tables_must_have_the_same_tasks(make_set: Callable[..., Path], tmp_path: Path) -> None:
    root = make_set("fname,shape,colour\na.png,round,red\n", names="abc")
    (root / "val.csv").write_text("fname,colour,shape\nb.png,blue,\nc.png,red,square\n")
    build_index(root, "custom", tmp_path / "index")
    assert open_index(tmp_path / "index").task_labels.tolist() == [[0, 1], [-1, 0], [1, 1]]
    (root / "val.csv").write_text("fname,colour\nb.png,blue\n")
    with pytest.raises(DatasetError, match=r"val\.csv has the tasks colour, and clothes/train\.csv"):
        build_index(root, "custom", tmp_path / "other")


@pytest.mark.parametrize("damage", ["gone", "bytes", "rows", "tasks", "range"])
def test_a_damaged_file_of_tasks_is_refused(make_set: Callable[..., Path], tmp_path: Path, damage: str) -> None:
    build_index(make_set(), "custom", tmp_path / "index")
    path = tmp_path / "index/tasks.parquet"
    labels = np.zeros(3, np.int32)
    columns = {
        "rows": {"colour": labels[:2], "shape": labels[:2]},
        "tasks": {"colour": labels},
        "range": {"colour": labels, "shape": labels + 2},
    }
    if damage == "gone":
        path.unlink()
    elif damage == "bytes":
        path.write_bytes(b"x")
    else:
        pq.write_table(pa.table(columns[damage]), path)
    with pytest.raises(DatasetError, match=r"damaged: tasks\.parquet"):
        open_index(tmp_path / "index")

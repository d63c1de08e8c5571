from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_formats import LABELLED, read_boxes, write_boxes
from prefect_trainyard.datasets.box_index import BoxIndexInfo, build_box_index, open_box_index
from prefect_trainyard.datasets.boxes import Box
from prefect_trainyard.datasets.folder import read_folder
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.datasets.manifest import digest_of, hash_file
from prefect_trainyard.schemas.errors import DatasetError


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes in every format, and one region to ignore."""
    root = tmp_path_factory.mktemp("sets")
    digit_scenes().write_scenes(root / "first", "coco", pictures=8)
    scenes = read_boxes(root / "first", "coco")
    region = Box(x1=0, y1=0, x2=5, y2=5, label=-1)
    pictures = list(scenes.pictures)
    pictures[2] = dataclasses.replace(pictures[2], boxes=(*pictures[2].boxes, region))
    pictures[3] = dataclasses.replace(pictures[3], boxes=())
    for format in LABELLED:
        write_boxes(dataclasses.replace(scenes, pictures=tuple(pictures)), format, root / format)
    return root


@pytest.fixture(scope="module")
def built(sets: Path) -> Path:
    build_box_index(sets / "coco", "coco", sets / "index")
    return sets / "index"


def test_it_holds_pictures_and_boxes(sets: Path, built: Path) -> None:
    index, scenes = open_box_index(built), read_boxes(sets / "coco", "coco")
    masks = list(index.masks_of_boxes())
    assert len(index) == 8 and index.classes == ["digit_3", "digit_5", "digit_8"]
    for i, picture in enumerate(scenes.pictures):
        rows = index.of(i)
        assert index.path(i) == str(picture.path)
        assert (index.widths[i], index.heights[i]) == (160, 128)
        assert index.edges[rows].tolist() == [list(box.xyxy) for box in picture.boxes]
        assert index.box_labels[rows].tolist() == [box.label for box in picture.boxes]
        assert index.is_ignored[rows].tolist() == [box.label == -1 for box in picture.boxes]
        assert masks[rows] == [box.mask for box in picture.boxes]
        assert index.areas[rows].tolist() == [box.area or 25 for box in picture.boxes]
        assert index.read(i) == (sets / "coco" / picture.path).read_bytes()
    assert index.edges.dtype == np.float32
    assert index.of(3) == slice(index.of(2).stop, index.of(2).stop)


def test_its_facts_are_in_dataset_json(sets: Path, built: Path) -> None:
    info = BoxIndexInfo.model_validate_json((built / "dataset.json").read_bytes())
    scenes = read_boxes(sets / "coco", "coco")
    assert info.type == "object_detection" and info.format == "coco"
    assert (info.count, info.boxes, info.masks_count) == (8, scenes.box_count, scenes.box_count - 1)
    assert info.class_counts == scenes.class_counts()
    assert info.raw_digest == digest_of(hash_file(sets / "coco", path) for path in read_folder(sets / "coco").files)
    assert sorted(p.name for p in built.iterdir()) == ["boxes.parquet", "dataset.json", "images.bin", "index.parquet"]


def test_the_same_set_gives_the_same_bytes_and_digest_from_any_format(sets: Path, built: Path, tmp_path: Path) -> None:
    build_box_index(sets / "coco", "coco", tmp_path / "again")
    for file in built.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    digests = {build_box_index(sets / f, f, tmp_path / f).digest for f in ("kitti", "pascal_voc")}
    assert len(digests) == 1  # COCO's has masks and areas as well


def test_the_digest_changes_with_a_box(sets: Path, tmp_path: Path) -> None:
    before = build_box_index(sets / "kitti", "kitti", tmp_path / "index").digest
    label = sets / "kitti/labels/scene_00000.txt"
    text = label.read_text()
    label.write_text(text.replace("0.00 0 0", "0.01 0 0", 1))
    assert build_box_index(sets / "kitti", "kitti", tmp_path / "index").digest != before
    label.write_text(text)


def test_pictures_alone_have_no_boxes(sets: Path, tmp_path: Path) -> None:
    build_box_index(sets / "kitti/images", "raw", tmp_path / "index")
    index = open_box_index(tmp_path / "index")
    assert len(index) == 8 and index.edges.shape == (0, 4) and index.classes == []


def test_a_broken_picture_leaves_what_was_there(sets: Path, tmp_path: Path) -> None:
    write_boxes(read_boxes(sets / "kitti", "kitti"), "kitti", tmp_path / "raw")
    build_box_index(tmp_path / "raw", "kitti", tmp_path / "out/index")
    file = tmp_path / "raw/images/scene_00004.png"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(DatasetError, match=r"images/scene_00004\.png"):
        build_box_index(tmp_path / "raw", "kitti", tmp_path / "out/index")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index"]
    assert len(open_box_index(tmp_path / "out/index")) == 8


def test_a_pickled_index_opens_the_same_files(built: Path) -> None:
    index = open_box_index(built)
    again = pickle.loads(pickle.dumps(index))
    assert np.array_equal(again.edges, index.edges) and again.digest == index.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "boxes.parquet").unlink(),
        lambda f: (f / "boxes.parquet").write_bytes(b"PAR1"),
        lambda f: (f / "images.bin").write_bytes(b""),
    ],
)
def test_a_damaged_index_is_refused(sets: Path, tmp_path: Path, damage) -> None:
    build_box_index(sets / "kitti", "kitti", tmp_path / "index")
    damage(tmp_path / "index")
    with pytest.raises(DatasetError, match=r"damaged.*convert job"):
        open_box_index(tmp_path / "index")


def test_an_index_of_another_type_is_refused(make_images, built: Path, tmp_path: Path) -> None:
    build_index(make_images(["a/1.png", "b/2.png"]), "default", tmp_path / "index")
    with pytest.raises(DatasetError, match="object_detection"):
        open_box_index(tmp_path / "index")


def test_facts_can_be_read_without_the_boxes(built: Path) -> None:
    index = open_index(built)
    assert index.classes == ["digit_3", "digit_5", "digit_8"] and (index.labels == -1).all()
    assert index.digest == open_box_index(built).digest and sum(index.info.class_counts.values()) > 0


def test_classes_get_other_names(sets: Path, tmp_path: Path) -> None:
    plain = build_box_index(sets / "kitti", "kitti", tmp_path / "plain")
    rename = {"digit_3": "odd", "digit_5": "odd"}
    info = build_box_index(sets / "kitti", "kitti", tmp_path / "index", rename=rename)
    assert info.classes == ["odd", "digit_8"] and info.boxes == plain.boxes and info.raw_digest == plain.raw_digest
    with pytest.raises(DatasetError, match="no class 'four'"):
        build_box_index(sets / "kitti", "kitti", tmp_path / "index", rename={"four": "4"})

"""Detection sets in pieces: what is checked when, and where the files belong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_formats import LABELLED, read_boxes
from prefect_trainyard.datasets.box_index import open_box_index
from prefect_trainyard.datasets.formats import build_index, data_format
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.datasets.manifest import RawFile, RawManifest, digest_of, hash_file
from prefect_trainyard.schemas.errors import DatasetError

TYPE = "object_detection"


class Uploads:
    """A set that is put together piece by piece, as the facade does it."""

    def __init__(self, root: Path, format: str, type: str = TYPE) -> None:
        self.root, self.kind = root, data_format(format, type)
        self.files: dict[str, RawFile] = {}
        self.classes: dict[str, int] = {}

    def add(self, piece: Path) -> Uploads:
        for source, placed in self.kind.read_piece(piece).items():
            self.files[str(placed.target)] = placed.described(hash_file(piece, source))
            target = self.root / placed.target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(piece / source, target)
        self.classes = self.kind.class_counts(self.files, lambda path: (self.root / path).read_bytes())
        return self

    @property
    def manifest(self) -> RawManifest:
        files = [self.files[path] for path in sorted(self.files)]
        written = RawManifest(
            type=self.kind.type,
            format=self.kind.name,
            files=files,
            digest=digest_of(files),
            classes=self.classes,
        ).model_dump_json(exclude_none=True)
        return RawManifest.model_validate_json(written)

    def require_trainable(self) -> None:
        self.kind.require_trainable(self.manifest)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for format in LABELLED:
        digit_scenes().write_scenes(root / format, format, pictures=6)
    return root


@pytest.fixture
def piece(tmp_path: Path, scenes: Path) -> Callable[..., Path]:
    """Return a function that makes a piece: the files of a set whose path holds one of `words`, below `above`."""
    made = iter(range(100))

    def make(format: str, *words: str, above: str = ".") -> Path:
        root = tmp_path / f"piece{next(made)}"
        for file in sorted(p for p in (scenes / format).rglob("*") if p.is_file()):
            path = file.relative_to(scenes / format)
            if not words or any(word in str(path) for word in words):
                (root / above / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, root / above / path)
        return root

    return make


@pytest.mark.parametrize("format", LABELLED)
def test_a_set_in_one_piece(scenes: Path, piece, tmp_path: Path, format: str) -> None:
    whole = Uploads(tmp_path / "raw", format).add(piece(format, above="some/where"))
    whole.require_trainable()
    known = read_boxes(scenes / format, format)
    assert whole.classes == known.class_counts()
    assert sorted(whole.files) == sorted(
        str(p.relative_to(scenes / format)) for p in (scenes / format).rglob("*") if p.is_file()
    )
    info = build_index(tmp_path / "raw", format, tmp_path / "index", type=TYPE)
    assert info.raw_digest == whole.manifest.digest and info.class_counts == whole.classes
    assert open_box_index(tmp_path / "index").digest == open_index(tmp_path / "index").digest == info.digest
    assert open_index(tmp_path / "index").classes == known.class_names


@pytest.mark.parametrize("pictures_first", [True, False])
@pytest.mark.parametrize(
    ("format", "labels"), [("kitti", "labels/"), ("pascal_voc", "Annotations/"), ("coco", ".json")]
)
def test_pictures_and_annotations_come_in_any_order(
    scenes: Path, piece, tmp_path: Path, format: str, labels: str, pictures_first: bool
) -> None:
    pictures, annotations = piece(format, ".png", above="x/y"), piece(format, labels, above="z")
    whole = Uploads(tmp_path / "raw", format)
    whole.add(pictures if pictures_first else annotations)
    with pytest.raises(DatasetError, match=r"no label file|no picture|no annotations\.json"):
        whole.require_trainable()
    whole.add(annotations if pictures_first else pictures)
    whole.require_trainable()
    assert whole.classes == read_boxes(scenes / format, format).class_counts()


def test_half_of_the_pictures_is_not_enough(piece, tmp_path: Path) -> None:
    kitti = Uploads(tmp_path / "kitti", "kitti").add(piece("kitti", "00.", "01.", "labels"))
    with pytest.raises(DatasetError, match=r"no picture for labels/scene_00002\.txt"):
        kitti.require_trainable()
    kitti.add(piece("kitti", "00002.png", "00003.png", "00004.png", "00005.png")).require_trainable()
    coco = Uploads(tmp_path / "coco", "coco").add(piece("coco", "00.", "01.", ".json"))
    with pytest.raises(DatasetError, match=r"annotations.json names pictures that are not there: scene_00002\.png"):
        coco.require_trainable()
    coco.add(piece("coco", "00002.png", "00003.png", "00004.png", "00005.png")).require_trainable()


def test_a_later_annotations_json_replaces_the_first(piece, tmp_path: Path) -> None:
    whole = Uploads(tmp_path / "raw", "coco").add(piece("coco"))
    assert list(whole.classes) == ["digit_3", "digit_5", "digit_8"]
    later = piece("coco", ".json")
    data = json.loads((later / "annotations.json").read_text())
    data["categories"][0]["name"] = "three"
    (later / "annotations.json").write_text(json.dumps(data))
    before = list(whole.classes.values())
    assert list(whole.add(later).classes) == ["three", "digit_5", "digit_8"]
    assert list(whole.classes.values()) == before
    whole.require_trainable()


def changed_json(root: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = json.loads((root / "annotations.json").read_text())
    change(data)
    (root / "annotations.json").write_text(json.dumps(data))
    return root


@pytest.mark.parametrize("alone", [True, False])
def test_a_broken_line_is_named(piece, alone: bool) -> None:
    root = piece("kitti", *(["labels"] if alone else []))
    file = root / "labels/scene_00001.txt"
    file.write_text(f"{file.read_text()}digit_3 0 0 0 1 2 three 4 0 0 0 0 0 0 0\n")
    line = file.read_text().count("\n")
    with pytest.raises(DatasetError, match=rf"labels/scene_00001\.txt, line {line}: column 7 is 'three'"):
        data_format("kitti", TYPE).read_piece(root)


def test_broken_annotations_are_named(piece, tmp_path: Path) -> None:
    voc = piece("pascal_voc", "Annotations")
    file = voc / "Annotations/scene_00002.xml"
    file.write_text(file.read_text().replace("<xmin>", "<xmin>x", 1))
    with pytest.raises(DatasetError, match=r"Annotations/scene_00002\.xml, line \d+: <xmin> is 'x"):
        data_format("pascal_voc", TYPE).read_piece(voc)
    coco = changed_json(piece("coco", ".json"), lambda data: data["annotations"][1].update(bbox=[1, 2, 3]))
    with pytest.raises(DatasetError, match=r"annotations.json, line 1, annotations\[1\]: its bbox is"):
        data_format("coco", TYPE).read_piece(coco)
    broken = piece("kitti", "images")
    (broken / "images/scene_00003.png").write_bytes((broken / "images/scene_00003.png").read_bytes()[:500])
    with pytest.raises(DatasetError, match=r"images/scene_00003\.png"):
        data_format("kitti", TYPE).read_piece(broken)


def test_boxes_outside_their_picture_are_left_to_convert(piece, tmp_path: Path) -> None:
    whole = Uploads(tmp_path / "raw", "kitti")
    root = piece("kitti")
    (root / "labels/scene_00000.txt").write_text("digit_3 0 0 0 -5 2 30 40 0 0 0 0 0 0 0\n")
    whole.add(root)
    with pytest.raises(
        DatasetError, match=r"labels/scene_00000\.txt, line 1: the box .* leaves the picture.*outside=clip"
    ):
        build_index(tmp_path / "raw", "kitti", tmp_path / "index")


def test_classes_txt_counts_for_all_pieces(piece, tmp_path: Path) -> None:
    whole = Uploads(tmp_path / "raw", "kitti").add(piece("kitti", "images", "labels"))
    listed = piece("kitti", "00000.png", "classes.txt")
    (listed / "classes.txt").write_text("digit_8\ndigit_5\n")
    with pytest.raises(DatasetError, match=r"labels/scene_0000\d\.txt has boxes of the class 'digit_3'"):
        whole.add(listed)
    (listed / "classes.txt").write_text("digit_8\nnever\ndigit_5\ndigit_3\n")
    whole.add(listed)
    assert list(whole.classes) == ["digit_8", "never", "digit_5", "digit_3"] and whole.classes["never"] == 0


def test_two_pictures_with_one_label_file_are_refused(piece, tmp_path: Path) -> None:
    whole = Uploads(tmp_path / "raw", "kitti").add(piece("kitti"))
    other = piece("kitti", "00000.png")
    (other / "images/scene_00000.png").rename(other / "images/scene_00000.jpg")
    with pytest.raises(DatasetError, match="would share one label file"):
        whole.add(other)


@pytest.mark.parametrize("name", ["more.zip", "notes.docx", "a.png"])
def test_files_that_do_not_belong_there_are_refused(piece, name: str) -> None:
    root = piece("kitti")
    shutil.copyfile(root / "images/scene_00000.png", root / name)
    with pytest.raises(DatasetError, match=name):
        data_format("kitti", TYPE).read_piece(root)
    (root / name).unlink()
    (root / "README.md").write_text("Scenes.")
    assert PurePosixPath("README.md") not in data_format("kitti", TYPE).read_piece(root)


def test_pictures_alone_cannot_be_trained_on(piece, tmp_path: Path) -> None:
    raw = Uploads(tmp_path / "raw", "raw").add(piece("kitti", ".png"))
    assert raw.classes == {} and "images/scene_00000.png" in raw.files
    mapped = Uploads(tmp_path / "mapped", "coco_raw").add(piece("coco", ".png"))
    with pytest.raises(DatasetError, match="no label_map"):
        build_index(tmp_path / "mapped", "coco_raw", tmp_path / "index")
    labels = tmp_path / "labels/deep"
    labels.mkdir(parents=True)
    (labels / "label_map.txt").write_text("1: 'three'\n2: 'five'\n")
    mapped.add(tmp_path / "labels")
    assert build_index(tmp_path / "mapped", "coco_raw", tmp_path / "index").classes == ["three", "five"]
    for uploads in (raw, mapped):
        with pytest.raises(DatasetError, match="has no boxes to learn from"):
            uploads.require_trainable()


def test_a_set_without_a_box_cannot_be_trained_on(piece, tmp_path: Path) -> None:
    root = piece("kitti")
    for file in (root / "labels").iterdir():
        file.write_text("DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n")
    with pytest.raises(DatasetError, match="There is no box"):
        Uploads(tmp_path / "raw", "kitti").add(root).require_trainable()


def test_instances_need_masks(piece, tmp_path: Path) -> None:
    kind = "instance_segmentation"
    whole = Uploads(tmp_path / "raw", "coco", kind).add(piece("coco", ".json")).add(piece("coco", ".png"))
    whole.require_trainable()
    build_index(tmp_path / "raw", "coco", tmp_path / "index", type=kind)
    index = open_box_index(tmp_path / "index")
    assert index.info.type == kind and index.info.masks_count == index.info.boxes == sum(whole.classes.values())
    flat = changed_json(piece("coco"), lambda data: data["annotations"][0].pop("segmentation"))
    with pytest.raises(DatasetError, match=r"annotations\[0\]: it has no segmentation"):
        data_format("coco", kind).read_piece(flat)
    assert data_format("coco", TYPE).read_piece(flat)


def test_other_formats_are_refused(piece) -> None:
    with pytest.raises(DatasetError, match=r"no annotations.json|no folder `images`"):
        data_format("coco", TYPE).read_piece(piece("pascal_voc"))
    with pytest.raises(DatasetError, match="no place"):
        data_format("kitti", TYPE).read_piece(piece("coco"))
    with pytest.raises(DatasetError, match="'unet' does not go with object_detection"):
        data_format("unet", TYPE)

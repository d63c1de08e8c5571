"""There and back between the annotation formats."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from box_sets import box_sets, content, digit_scenes, write_pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefect_trainyard.datasets.box_convert import convert_annotations, rename_classes
from prefect_trainyard.datasets.box_formats import LABELLED, read_boxes, write_boxes
from prefect_trainyard.datasets.boxes import DONT_CARE, Box, BoxClass, BoxSet, Picture
from prefect_trainyard.schemas.errors import DatasetError
from prefect_trainyard.schemas.reporting import SilentReporter

PICTURES = Path(tempfile.mkdtemp(prefix="trainyard-boxes-"))
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
def pictures():
    write_pictures(PICTURES)
    yield
    shutil.rmtree(PICTURES)


@pytest.mark.parametrize("format", LABELLED)
@quick
@given(data=st.data())
def test_what_is_written_is_read(format: str, data: st.DataObject) -> None:
    made = data.draw(box_sets(PICTURES, full=format == "coco", blanks=format != "kitti"))
    with tempfile.TemporaryDirectory() as folder:
        write_boxes(made, format, Path(folder))
        assert content(read_boxes(Path(folder), format)) == content(made)


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in LABELLED for b in LABELLED if a != b])
@quick
@given(data=st.data())
def test_there_and_back_loses_nothing_that_both_hold(first: str, second: str, data: st.DataObject) -> None:
    made = data.draw(box_sets(PICTURES, blanks="kitti" not in {first, second}))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_boxes(made, first, folder / "a")
        convert_annotations(folder / "a", first, folder / "b", second)
        convert_annotations(folder / "b", second, folder / "c", first)
        assert content(read_boxes(folder / "c", first)) == content(made)
        for file in (path for path in (folder / "a").rglob("*") if path.is_file() and path.suffix != ".json"):
            assert (folder / "c" / file.relative_to(folder / "a")).read_bytes() == file.read_bytes()


@quick
@given(data=st.data())
def test_coco_holds_all_of_kitti(data: st.DataObject) -> None:
    made = data.draw(box_sets(PICTURES, full=True, blanks=False))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_boxes(made, "kitti", folder / "a")
        convert_annotations(folder / "a", "kitti", folder / "b", "coco")
        convert_annotations(folder / "b", "coco", folder / "c", "kitti")
        for file in (folder / "a" / "labels").iterdir():
            assert (folder / "c" / "labels" / file.name).read_text() == file.read_text()


def test_coco_keeps_its_ids_and_supercategories(tmp_path: Path) -> None:
    box = Box(x1=1, y1=2, x2=3, y2=4.5, label=1, id=77)
    picture = Picture(path=PurePosixPath("1.png"), name=PurePosixPath("1.png"), width=40, height=30, boxes=(box,), id=9)
    classes = (BoxClass(name="a b", id=18, supercategory="x"), BoxClass(name="c", id=3, supercategory="y"))
    made = BoxSet(root=PICTURES, pictures=(picture,), classes=classes)
    write_boxes(made, "coco", tmp_path / "coco")
    found = read_boxes(tmp_path / "coco", "coco")
    assert found.classes == classes
    assert found.pictures[0].id == 9
    assert found.pictures[0].boxes == (box,)
    (annotation,) = json.loads((tmp_path / "coco/annotations.json").read_text())["annotations"]
    assert annotation["bbox"] == [1, 2, 2, 2.5] and annotation["category_id"] == 3 and annotation["area"] == 5


@pytest.mark.parametrize("format", LABELLED)
def test_digits_in_scenes_are_the_same_in_every_format(tmp_path: Path, format: str) -> None:
    scenes = digit_scenes().write_scenes(tmp_path / format, format, pictures=12)
    found = read_boxes(tmp_path / format, format)
    assert found.class_names == ["digit_3", "digit_5", "digit_8"]
    assert found.class_counts() == scenes.class_counts() and found.box_count > 20
    for ours, theirs in zip(found.pictures, scenes.pictures, strict=True):
        assert [box.xyxy for box in ours.boxes] == [box.xyxy for box in theirs.boxes]
        assert [box.mask for box in ours.boxes] == [box.mask if format == "coco" else None for box in theirs.boxes]


def _set(*boxes: Box, classes: tuple[str, ...] = ("traffic light", "car")) -> BoxSet:
    path = PurePosixPath("1.png")
    picture = Picture(path=path, name=path, width=40, height=30, boxes=boxes)
    return BoxSet(root=PICTURES, pictures=(picture,), classes=tuple(BoxClass(name=name) for name in classes))


def test_kitti_refuses_blanks_in_names_and_leaves_nothing(tmp_path: Path) -> None:
    write_boxes(_set(Box(x1=0, y1=0, x2=1, y2=1, label=0)), "coco", tmp_path / "coco")
    with pytest.raises(DatasetError, match=r"'traffic light'.*'traffic_light'"):
        convert_annotations(tmp_path / "coco", "coco", tmp_path / "kitti", "kitti")
    assert [path.name for path in tmp_path.iterdir()] == ["coco"]
    done = convert_annotations(
        tmp_path / "coco", "coco", tmp_path / "kitti", "kitti", rename={"traffic light": "traffic_light"}
    )
    assert done.class_names == ["traffic_light", "car"]


def test_classes_are_renamed_merged_and_ignored() -> None:
    made = _set(*(Box(x1=0, y1=0, x2=1, y2=1, label=label) for label in (0, 1, 2, 3, -1)), classes=("a", "b", "c", "d"))
    found = rename_classes(made, {"a": "x", "c": "x", "b": "dont care"})
    assert found.class_names == ["x", "d"]
    assert [box.label for box in found.pictures[0].boxes] == [0, DONT_CARE, 0, 1, DONT_CARE]
    with pytest.raises(DatasetError, match="no class 'z'"):
        rename_classes(made, {"z": "x"})


def test_the_log_says_what_the_format_cannot_hold(tmp_path: Path) -> None:
    class Log(SilentReporter):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def log(self, message: str) -> None:
            self.lines.append(message)

    box = Box(x1=0, y1=0, x2=1, y2=1, label=0, crowd=True, kitti_3d=("1",) * 8, truncated=0.4)
    write_boxes(_set(box, dataclasses.replace(box, crowd=False)), "coco", tmp_path / "coco")
    log = Log()
    convert_annotations(tmp_path / "coco", "coco", tmp_path / "voc", "pascal_voc", reporter=log)
    assert log.lines == [
        "pascal_voc cannot hold crowd marks: 1 are left out.",
        "pascal_voc cannot hold 3D columns: 2 are left out.",
        "pascal_voc cannot hold degrees of truncation: 2 are left out.",
    ]


@pytest.mark.parametrize("target", ["raw", "coco_raw", "yolo"])
def test_formats_without_annotations_are_no_target(tmp_path: Path, target: str) -> None:
    with pytest.raises(DatasetError, match="Use one of kitti, coco, pascal_voc"):
        convert_annotations(PICTURES, "raw", tmp_path / "out", target)


def test_two_pictures_of_one_stem_do_not_fit_into_label_files(tmp_path: Path) -> None:
    made = _set(classes=("car",))
    twin = dataclasses.replace(made.pictures[0], name=PurePosixPath("1.jpg"))
    made = dataclasses.replace(made, pictures=(*made.pictures, twin))
    write_boxes(made, "coco", tmp_path / "coco")
    with pytest.raises(DatasetError, match=r"share one label file"):
        convert_annotations(tmp_path / "coco", "coco", tmp_path / "kitti", "kitti")

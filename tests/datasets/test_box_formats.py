"""What readers of annotations say about sets that are not as they should be: the file, the line, what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prefect_trainyard.datasets import coco, kitti, pascal_voc
from prefect_trainyard.datasets.box_checks import Outside
from prefect_trainyard.datasets.box_folder import ReadOptions
from prefect_trainyard.datasets.box_formats import inspect_boxes, read_boxes
from prefect_trainyard.schemas.errors import DatasetError

LINE = "car 0.00 0 0 1 2 11 12 0 0 0 0 0 0 0"
CLIP = ReadOptions(outside=Outside.CLIP)


def picture(file: Path, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (1, 2, 3)).save(file)


def kitti_set(root: Path, *labels: str, images: str = "images", folder: str = "labels") -> Path:
    (root / folder).mkdir(parents=True)
    for number, text in enumerate(labels):
        picture(root / images / f"{number}.png")
        (root / folder / f"{number}.txt").write_text(text)
    return root


def voc_set(root: Path, *objects: str, size: str = "<size><width>40</width><height>30</height></size>") -> Path:
    (root / "Annotations").mkdir(parents=True)
    for number, text in enumerate(objects):
        picture(root / "JPEGImages" / f"{number}.png")
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>\n{size}\n{text}\n</annotation>")
    return root


def voc_object(xmin: object, ymin: object, xmax: object, ymax: object, name: str = "car", more: str = "") -> str:
    box = f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    return f"<object>\n<name>{name}</name>{more}\n{box}</object>"


def coco_set(
    root: Path, change: Callable[[dict[str, Any]], object] = lambda data: None, indent: int | None = 1
) -> Path:
    for name in ("a.png", "b/c.png"):
        picture(root / "images" / name)
    data = {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 2, "file_name": "b/c.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0.5, 0, 39.5, 30], "area": 5.5, "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "dog", "supercategory": "animal"}],
    }
    change(data)
    (root / "annotations.json").write_text(json.dumps(data, indent=indent))
    return root


# -- what is right


def test_kitti_is_read_whatever_its_folders_are_called(tmp_path: Path) -> None:
    full = "Pedestrian 0.25 2 -0.20 712.40 143.00 810.73 307.92 1.89 0.48 1.20 1.84 1.47 8.41 0.01 0.9"
    ignored = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"
    root = kitti_set(tmp_path, f"{full}\r\n\n{ignored}\n", images="training/image_2", folder="training/label_2")
    picture(root / "training/image_2/0.png", (1242, 375))
    (scene,) = read_boxes(root, "kitti").pictures
    person, region = scene.boxes
    assert person.xyxy == (712.4, 143.0, 810.73, 307.92)
    assert (person.truncated, person.occluded, person.score) == (0.25, 2, 0.9)
    assert person.kitti_3d == ("-0.20", "1.89", "0.48", "1.20", "1.84", "1.47", "8.41", "0.01")
    assert (region.label, region.truncated, region.occluded, region.is_ignored) == (-1, -1, -1, True)
    assert read_boxes(root, "kitti").class_names == ["Pedestrian"]


def test_classes_are_sorted_unless_a_list_orders_them(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, f"{LINE}\n{LINE.replace('car', 'bus')}", "")
    assert read_boxes(root, "kitti").class_names == ["bus", "car"]
    assert [box.label for box in read_boxes(root, "kitti").pictures[0].boxes] == [1, 0]
    (root / "classes.txt").write_text("van\ncar\nbus\n")
    found = read_boxes(root, "kitti")
    assert found.class_counts() == {"van": 0, "car": 1, "bus": 1}
    assert found.notes == ("1 of 2 pictures have no box.",)


def test_pascal_counts_from_one_and_its_last_pixel_is_inside(tmp_path: Path) -> None:
    more = "<truncated>1</truncated><difficult>1</difficult><pose>Left</pose>"
    part = "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part>"
    root = voc_set(
        tmp_path,
        voc_object(1, 1, 40, 30, more=more) + voc_object(2, 3, "4.5", 5).replace("</object>", part + "</object>"),
    )
    whole, small = read_boxes(root, "pascal_voc").pictures[0].boxes
    assert whole.xyxy == (0, 0, 40, 30)
    assert (whole.truncated, whole.difficult, whole.pose) == (1, True, "Left")
    assert small.xyxy == (1, 2, 4.5, 5)


def test_a_pascal_set_with_a_zero_counts_from_zero(tmp_path: Path) -> None:
    found = read_boxes(voc_set(tmp_path, voc_object(0, 5, 10, 20), voc_object(3, 4, 5, 6)), "pascal_voc")
    assert [p.boxes[0].xyxy for p in found.pictures] == [(0, 5, 10, 20), (3, 4, 5, 6)]
    assert "counted from 0" in found.notes[0]


def test_coco_is_read_with_masks_crowds_and_ids(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0] |= {"segmentation": [[1, 2, 11, 2, 11, 12.5]], "keypoints": [1, 2, 2]}
        data["annotations"][1] |= {
            "segmentation": {"size": [30, 40], "counts": [0, 600, 600]},
            "attributes": {"occluded": True},
        }

    picture(tmp_path / "images/extra.png")
    found = read_boxes(coco_set(tmp_path, change), "coco")
    assert [c.id for c in found.classes] == [7, 3] and found.classes[1].supercategory == "animal"
    first, second = (p.boxes[0] for p in found.pictures)
    assert first.xyxy == (1, 2, 11, 12) and first.area is None and not first.crowd
    assert second.xyxy == (0.5, 0, 40, 30) and second.area == 5.5 and second.crowd and second.occluded == 1
    assert found.notes == (
        "1 pictures are not in annotations.json and were left out.",
        "Not kept of the annotations: keypoints.",
    )


def test_coco_finds_pictures_below_the_folder_that_holds_images(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["images"][0]["file_name"] = "images/a.png"

    assert [str(p.path) for p in read_boxes(coco_set(tmp_path, change), "coco").pictures] == [
        "images/a.png",
        "images/b/c.png",
    ]


@pytest.mark.parametrize("line", ["person", "1: 'person'", '1: "person"', "1 = person"])
def test_coco_raw_has_a_label_map_and_no_boxes(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "label_map.txt").write_text(f"{line}\n\ndog\n")
    found = read_boxes(tmp_path, "coco_raw")
    assert found.class_names == ["person", "dog"] and found.box_count == 0
    assert read_boxes(tmp_path, "raw").class_names == []
    (tmp_path / "label_map.txt").unlink()
    with pytest.raises(DatasetError, match=r"no label_map\.txt"):
        read_boxes(tmp_path, "coco_raw")


# -- what is wrong with single lines


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("car 0 0 0 1 2 3 4", r"line 2: there are 8 columns, not 15 or 16\..*class truncated"),
        (LINE.replace("0.00", "much"), r"line 2: column 2 is 'much', which is no finite number"),
        (LINE.replace(" 11 ", " nan "), r"line 2: column 7 is 'nan'"),
        (LINE.replace(" 11 ", " 1e999 "), r"line 2: column 7 is '1e999'"),
        (LINE.replace(" 11 ", " 1_1 "), r"line 2: column 7 is '1_1'"),
        (LINE.replace("0.00 0", "2 0"), r"line 2: truncated is 2, not 0 to 1 or -1"),
        (LINE.replace("0.00 0", "0 1.5"), r"line 2: occluded is 1\.5"),
        (LINE.replace(" 11 ", " 1 "), r"line 2: the box \(1, 2, 1, 12\) has no area\..*outside=clip"),
        (LINE.replace(" 11 ", " 41 "), r"line 2: the box \(1, 2, 41, 12\) leaves the picture of 40 x 30 pixels"),
        (LINE.replace("car", "\u202ecar"), r"line 2: the class name '\\u202ecar' is empty or does not print"),
    ],
)
def test_a_wrong_line_of_kitti_is_named(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(DatasetError, match=rf"^labels/1\.txt, {what}"):
        read_boxes(kitti_set(tmp_path, LINE, f"{LINE}\n{line}\n{LINE}"), "kitti")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (voc_object(1, 1, "x", 9), r"line 3: <xmax> is 'x', which is no number"),
        (voc_object(1, 1, "nan", 9), r"line 3: the box .* has edges that are no finite numbers"),
        (voc_object(9, 1, 5, 9), r"line 3: the box .* has no area"),
        (voc_object(2, 2, 41, 9), r"line 3: the box \(1, 1, 41, 9\) leaves the picture"),
        (voc_object(1, 1, 9, 9).replace("<ymax>9</ymax>", ""), r"line 3: <bndbox> has no <ymax>"),
        ("<object><name>a</name></object>", r"line 3: the object has no <bndbox>"),
        ("<object/>", r"line 3: the object has no <name>"),
        (voc_object(1, 1, 9, 9, name=" "), r"line 4: the class name '' is empty"),
        (voc_object(1, 1, 9, 9, more="\n<difficult>2</difficult>"), r"line 5: <difficult> is '2', not 0 or 1"),
        ("<object>", r"line 4: it is not XML: mismatched tag"),
        ("<a>" * 70 + "</a>" * 70, r"line 3: its elements are nested deeper than 64"),
    ],
)
def test_a_wrong_element_of_pascal_is_named(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(DatasetError, match=rf"^Annotations/1\.xml, {what}"):
        read_boxes(voc_set(tmp_path, voc_object(1, 1, 9, 9), text), "pascal_voc")


@pytest.mark.parametrize(
    "bomb",
    [
        '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]><annotation>&y;</annotation>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        '<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><annotation/>',
    ],
)
def test_entities_and_document_types_are_refused(tmp_path: Path, bomb: str) -> None:
    root = voc_set(tmp_path, "")
    (root / "Annotations/0.xml").write_text(bomb)
    with pytest.raises(DatasetError, match=r"^Annotations/0\.xml, line 1: it has a document type"):
        read_boxes(root, "pascal_voc")


def test_other_xml_and_other_sizes_are_named(tmp_path: Path) -> None:
    root = voc_set(tmp_path, "", "", size="<size><width>30</width><height>40</height></size>")
    (root / "Annotations/0.xml").write_text('<?xml version="1.0" encoding="klingon"?><kml/>')
    found = [str(problem) for problem in inspect_boxes(root, "pascal_voc").problems.found]
    assert "Annotations/0.xml, line 1: it" in found[0]
    assert found[1] == "Annotations/1.xml, line 2: the size is 30 x 40, but the picture has 40 x 30 pixels"


def _change(key: str, position: int, **values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data[key][position].update(values)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_change("annotations", 1, bbox=[1, 2, 3]), r"line 30, annotations\[1\]: its bbox is \[1, 2, 3\]"),
        (
            _change("annotations", 1, bbox=[1, 2, 0, 3]),
            r"line 30, annotations\[1\]: the box \(1, 2, 1, 5\) has no area",
        ),
        (_change("annotations", 1, bbox=[1, 2, 40, 3]), r"line 30, annotations\[1\]: the box .* leaves the picture"),
        (_change("annotations", 1, bbox=[1, 2, 10**400, 3]), r"line 30, annotations\[1\]: its bbox is \[1, 2, 1000"),
        (_change("annotations", 1, bbox="1, 2"), r"line 30, annotations\[1\]: its bbox is '1, 2'"),
        (_change("annotations", 1, category_id=9), r"line 30, annotations\[1\]: the category 9 is unknown"),
        (
            _change("annotations", 1, category_id="7"),
            r"line 30, annotations\[1\]: its category_id is '7', which is no in",
        ),
        (_change("annotations", 1, image_id=9), r"line 30, annotations\[1\]: there is no image with the id 9"),
        (_change("annotations", 1, image_id=[]), r"line 30, annotations\[1\]: its image_id is \[\]"),
        (_change("annotations", 1, id=1), r"line 30, annotations\[1\]: the id 1 is that of annotations\[0\]"),
        (_change("annotations", 1, area=-1), r"line 30, annotations\[1\]: its area is -1"),
        (_change("annotations", 1, segmentation=[[1, 2, 3]]), r"line 30, annotations\[1\]: a polygon"),
        (
            _change("annotations", 1, segmentation={"size": [1, 1], "counts": [1]}),
            r"line 30, .*its mask has the size \[1, 1\]",
        ),
        (_change("annotations", 1, segmentation={"size": [30, 40], "counts": [1]}), r"line 30, .*do not add up"),
        (_change("annotations", 1, attributes={"truncated": 3}), r"line 30, .*its truncated is 3"),
        (_change("annotations", 1, attributes={"kitti": ["1"]}), r"line 30, .*its kitti is \['1'\], not 8 columns"),
        (_change("images", 1, file_name="no.png"), r"line 9, images\[1\]: there is no picture images/no\.png"),
        (_change("images", 1, file_name="../images/a.png"), r"line 9, images\[1\]: there is no picture"),
        (_change("images", 1, file_name="/etc/passwd"), r"line 9, images\[1\]: there is no picture"),
        (_change("images", 1, file_name="a.png"), r"line 9, images\[1\]: a\.png is image 1 already"),
        (_change("images", 1, width=41), r"line 9, images\[1\]: its size is 41 x 30, but b/c\.png has 40 x 30 pixels"),
        (_change("categories", 1, id=7), r"line 49, categories\[1\]: the id 7 is that of 'car'"),
        (_change("categories", 1, name="car"), r"line 49, categories\[1\]: the class 'car' is there twice"),
        (_change("categories", 1, name=""), r"line 49, categories\[1\]: its name is ''"),
        (lambda data: data["annotations"].append(5), r"line 43, annotations\[2\]: it is no JSON object"),
        (lambda data: data.pop("categories"), r"it has no list 'categories'\..*cocodataset"),
    ],
)
def test_a_wrong_entry_of_coco_is_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], what: str) -> None:
    found = inspect_boxes(coco_set(tmp_path, change), "coco").problems.found
    with pytest.raises(
        DatasetError, match=what if what.startswith("it has") else rf"annotations\.json, {what}"
    ) as told:
        read_boxes(tmp_path, "coco")
    assert str(found[0]) in told.value.message


def test_an_image_id_twice_is_named(tmp_path: Path) -> None:
    found = inspect_boxes(coco_set(tmp_path, _change("images", 1, id=1)), "coco").problems.found
    assert "images[1]: the id 1 is that of a.png" in str(found[0])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"images": [\n1,]}', "line 2, column "),
        ('{"images": [NaN]}', "NaN is no JSON number"),
        ('{"images": [Infinity]}', "Infinity is no JSON number"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "holds no JSON object"),
        ("", "line 1, column 1: it is not JSON"),
        ('{"images": [' + "1" * 5000 + "]}", "annotations.json"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str, what: str) -> None:
    coco_set(tmp_path)
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(DatasetError) as told:
        read_boxes(tmp_path, "coco")
    assert what in str(told.value)


# -- what is wrong with files


@pytest.mark.parametrize("format", ["kitti", "pascal_voc", "coco"])
def test_missing_and_broken_pictures_are_named(tmp_path: Path, format: str) -> None:
    root, images = {
        "kitti": (lambda: kitti_set(tmp_path, LINE, LINE, LINE), "images"),
        "pascal_voc": (lambda: voc_set(tmp_path, *[voc_object(1, 1, 9, 9)] * 3), "JPEGImages"),
        "coco": (lambda: coco_set(tmp_path), "images"),
    }[format]
    root()
    files = sorted((tmp_path / images).rglob("*.png"))
    files[0].unlink()
    files[1].write_bytes(b"not an image")
    kinds = inspect_boxes(tmp_path, format).problems.counts
    assert kinds == {"missing picture": 1, "unreadable picture": 1}
    with pytest.raises(DatasetError, match=r"2 problems in the annotations .*is not an image that can be read"):
        read_boxes(tmp_path, format)


def test_a_picture_that_ends_early_is_found_when_decoded(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, LINE)
    Image.effect_noise((40, 30), 90).save(root / "images/0.png")
    content = (root / "images/0.png").read_bytes()
    (root / "images/0.png").write_bytes(content[: len(content) // 2])
    assert inspect_boxes(root, "kitti").problems.count == 0
    assert inspect_boxes(root, "kitti", ReadOptions(decode=True)).problems.counts == {"unreadable picture": 1}


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, LINE)
    picture(root / "images/none.png")
    with pytest.raises(DatasetError, match=r"^images/none\.png: it has no label file labels/none\.txt\. An empty"):
        read_boxes(root, "kitti")


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, LINE)
    (root / "labels/0.txt").write_bytes(LINE.encode() + b"\ncaf\xe9 0")
    with pytest.raises(DatasetError, match=r"^labels/0\.txt, line 2: it is not UTF-8 text"):
        read_boxes(root, "kitti")


@pytest.mark.parametrize(("module", "format"), [(kitti, "kitti"), (pascal_voc, "pascal_voc"), (coco, "coco")])
def test_files_that_are_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, format: str
) -> None:
    monkeypatch.setattr(module, "_MAX_BYTES", 20)
    make = {"kitti": kitti_set, "pascal_voc": voc_set}.get(format)
    root = make(tmp_path, LINE) if make else coco_set(tmp_path)
    assert inspect_boxes(root, format).problems.counts == {"file too large": 1}


def test_unknown_classes_are_named_when_the_classes_are_given(tmp_path: Path) -> None:
    options = ReadOptions(classes=("dog", "cat"))
    with pytest.raises(
        DatasetError, match=r"labels/0\.txt, line 1: the class 'car' is unknown\. The classes are dog, cat"
    ):
        read_boxes(kitti_set(tmp_path / "k", LINE), "kitti", options)
    with pytest.raises(DatasetError, match=r"annotations\[0\]: the category 7 is unknown\. The classes are dog, cat"):
        read_boxes(coco_set(tmp_path / "c"), "coco", options)
    found = inspect_boxes(tmp_path / "c", "coco", options).boxes
    assert found.class_names == ["dog", "cat"] and found.class_counts() == {"dog": 1, "cat": 0}


# -- many problems, and clipping


def test_the_first_ten_problems_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, "\n".join([LINE.replace(" 11 ", " 99 ")] * 25 + ["car 1"]))
    with pytest.raises(DatasetError) as told:
        read_boxes(root, "kitti")
    message = str(told.value)
    assert "26 problems in the annotations (25 box outside the picture, 1 wrong columns)" in message
    assert message.count("labels/0.txt, line") == 10
    assert "and 16 more" in message


@pytest.mark.parametrize(
    ("edges", "kept"),
    [
        ("-5 -5 20 20", (0, 0, 20, 20)),
        ("30 20 99 99", (30, 20, 40, 30)),
        ("50 50 60 60", None),
        ("5 5 5 9", None),
        ("9 9 5 5", None),
    ],
)
def test_clipping_cuts_boxes_and_leaves_empty_ones_out(tmp_path: Path, edges: str, kept: object) -> None:
    root = kitti_set(tmp_path, LINE.replace("1 2 11 12", edges))
    found = read_boxes(root, "kitti", CLIP)
    assert [box.xyxy for box in found.pictures[0].boxes] == ([kept] if kept else [])
    if kept is None:
        assert found.notes[0] == "1 boxes without area in their picture were left out."


def test_rounding_is_no_fault(tmp_path: Path) -> None:
    root = kitti_set(tmp_path, LINE.replace("1 2 11 12", "-0.001 0 40.0000001 30.005"))
    assert read_boxes(root, "kitti").pictures[0].boxes[0].xyxy == (0, 0, 40, 30)


@pytest.mark.parametrize(
    ("format", "files", "what"),
    [
        ("kitti", ["labels/a.txt"], "no folder `image_2` or `images`"),
        ("kitti", ["images/a.png"], "no folder `label_2` or `labels`"),
        ("kitti", ["images/a.txt", "labels/a.txt"], "no image in images/"),
        ("kitti", ["a/images/a.png", "b/images/a.png"], "must be one folder"),
        ("pascal_voc", ["a/a.png"], "no folder `images` or `jpegimages`"),
        ("coco", ["images/a.png"], r"no annotations\.json"),
        ("coco", ["images/a.png", "a.json", "b.json"], "not clear which file"),
        ("coco_raw", ["a.png"], "no folder `images`"),
        ("raw", ["a.txt"], "no image"),
        ("yolo", ["a.txt"], "'yolo' does not go with object_detection"),
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, format: str, files: list[str], what: str) -> None:
    for name in files:
        if name.endswith(".png"):
            picture(tmp_path / name)
        else:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=what):
        read_boxes(tmp_path, format)


def test_there_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no files"):
        read_boxes(tmp_path / "nothing", "kitti")

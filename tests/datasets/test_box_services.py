"""analyze, validate, kmeans and augment of detection sets."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from box_sets import digit_scenes
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prefect_trainyard.datasets.anchors import box_sizes, kmeans_anchors, shape_iou
from prefect_trainyard.datasets.box_analysis import analyze_boxes, validate_boxes, write_tables
from prefect_trainyard.datasets.box_augment import AugmentOptions, augment_boxes
from prefect_trainyard.datasets.box_figures import draw_analysis
from prefect_trainyard.datasets.box_formats import LABELLED, inspect_boxes, read_boxes, write_boxes
from prefect_trainyard.datasets.boxes import Box, BoxClass, BoxSet, Picture, Polygons, RunLengths
from prefect_trainyard.datasets.run_lengths import decode_runs, encode_runs
from prefect_trainyard.schemas.errors import DatasetError

EVERYTHING = AugmentOptions(
    copies=2,
    flip_horizontal=0.5,
    flip_vertical=0.5,
    rotation=20,
    shear=5,
    shift=0.1,
    zoom=0.2,
    brightness=0.2,
    contrast=0.2,
    saturation=0.3,
    hue=0.1,
    blur=1,
    noise=4,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for format in LABELLED:
        digit_scenes().write_scenes(root / format, format, pictures=10)
    return root


def one_picture(root: Path, *boxes: Box, size: tuple[int, int] = (100, 80)) -> BoxSet:
    """Write a picture that is white in its boxes and black elsewhere."""
    root.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for box in boxes:
        pixels[int(box.y1) : int(box.y2), int(box.x1) : int(box.x2)] = 255
    Image.fromarray(pixels).save(root / "a.png")
    name = PurePosixPath("a.png")
    picture = Picture(path=name, name=name, width=size[0], height=size[1], boxes=boxes)
    return BoxSet(root=root, pictures=(picture,), classes=(BoxClass(name="x"), BoxClass(name="=y")))


# -- analyze and validate


def test_the_tables_count_classes_sizes_and_what_is_broken(tmp_path: Path) -> None:
    made = one_picture(
        tmp_path / "pictures",
        Box(x1=0, y1=0, x2=10, y2=10, label=0, truncated=0.5),
        Box(x1=0, y1=0, x2=30, y2=30, label=0, difficult=True),
        Box(x1=0, y1=0, x2=100, y2=80, label=0, occluded=2),
        Box(x1=0, y1=0, x2=40, y2=40, label=1, crowd=True),
        Box(x1=5, y1=5, x2=50, y2=50, label=-1),
    )
    write_boxes(made, "coco", tmp_path / "raw")
    found = json.loads((tmp_path / "raw/annotations.json").read_text())
    found["annotations"].append({"id": 99, "image_id": 1, "category_id": 1, "bbox": [0, 0, 200, 1]})
    (tmp_path / "raw/annotations.json").write_text(json.dumps(found))
    analysis = analyze_boxes(validate_boxes(tmp_path / "raw", "coco"))
    first, second, ignored = analysis.classes
    assert (first.boxes, first.pictures, first.small, first.medium, first.large) == (3, 1, 2, 1, 0)
    assert (first.width, first.height, first.share) == (30, 30, 0.6)
    assert (first.difficult, first.truncated, first.occluded, second.crowd) == (1, 1, 1, 1)
    assert ignored.name == "DontCare" and ignored.boxes == 1
    assert analysis.imbalance == 3 and analysis.boxes == 5
    assert analysis.shares.tolist()[2] == 1 and analysis.centres.tolist()[2] == [0.5, 0.5]

    files = write_tables(analysis, tmp_path / "out")
    assert [file.name for file in files] == ["summary.json", "classes.csv", "problems.csv"]
    summary = json.loads(files[0].read_text())
    assert summary["problems"] == {"box outside the picture": 1} and summary["boxes_per_picture"] == 5
    with files[1].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["x", "'=y", "DontCare"]
    assert "annotations[5]" in files[2].read_text()


def test_figures_are_drawn(scenes: Path, tmp_path: Path) -> None:
    files = draw_analysis(analyze_boxes(inspect_boxes(scenes / "kitti", "kitti")), tmp_path)
    assert [f.name for f in files] == ["class_balance.png", "box_sizes.png", "box_places.png", "boxes_per_picture.png"]
    for file in files:
        with Image.open(file) as image:
            assert image.width > 500 and len(image.convert("L").getcolors() or []) > 3


def test_many_classes_and_boxes_are_drawn_and_none_are_not(tmp_path: Path) -> None:
    made = one_picture(tmp_path / "p")
    picture = made.pictures[0]
    boxes = tuple(Box(x1=i % 50, y1=i % 40, x2=60 + i % 30, y2=70, label=i % 60) for i in range(2400))
    many = dataclasses.replace(
        made,
        pictures=(dataclasses.replace(picture, boxes=boxes),),
        classes=tuple(BoxClass(name=f"${i}$ {'long' * 9}") for i in range(60)),
    )
    inspection = inspect_boxes(tmp_path / "p", "raw")
    assert len(draw_analysis(analyze_boxes(dataclasses.replace(inspection, boxes=many)), tmp_path / "out")) == 4
    empty = analyze_boxes(inspection)
    assert draw_analysis(empty, tmp_path / "none") == [] and empty.imbalance is None
    assert write_tables(empty, tmp_path / "none")


# -- kmeans


def test_anchors_are_the_sizes_that_there_are() -> None:
    sizes = np.array([(10, 20), (100, 50), (30, 30)] * 40, dtype=np.float64)
    found = kmeans_anchors(sizes, 3)
    assert found.sizes == ((10, 20), (30, 30), (100, 50)) and found.mean_iou == pytest.approx(1)
    assert kmeans_anchors(sizes, 3, seed=5) == found
    with pytest.raises(DatasetError, match="3 different sizes, too few for 4 anchors"):
        kmeans_anchors(sizes, 4)


def test_more_anchors_fit_better_and_beat_random_ones() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(3, 0.8, (500, 2)))
    fits = [kmeans_anchors(sizes, count).mean_iou for count in (1, 3, 6, 9)]
    assert fits == sorted(fits) and fits[-1] > 0.6
    drawn = max(float(shape_iou(sizes, rng.choice(sizes, 9)).max(axis=1).mean()) for _ in range(20))
    assert fits[-1] > drawn


def test_sizes_are_those_on_the_input_of_the_network(tmp_path: Path) -> None:
    made = one_picture(
        tmp_path,
        Box(x1=0, y1=0, x2=10, y2=40, label=0),
        Box(x1=0, y1=0, x2=1, y2=1, label=0),
        Box(x1=0, y1=0, x2=50, y2=40, label=-1),
    )
    assert box_sizes(made, (50, 50)).tolist() == [[5, 20]]
    assert box_sizes(made, (50, 40), letterbox=False, min_side=0).tolist() == [[5, 20], [0.5, 0.5]]


# -- masks


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_masks_are_packed_and_unpacked(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    assert np.array_equal(decode_runs(encode_runs(mask)), mask)


def test_packed_text_is_read_as_coco_reads_it() -> None:
    from faster_coco_eval.core import mask as reference

    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = np.asfortranarray(rng.random((37, 61)) < rng.random())
        packed = reference.encode(mask.astype(np.uint8))
        text = packed["counts"].decode() if isinstance(packed["counts"], bytes) else packed["counts"]
        assert np.array_equal(decode_runs(RunLengths(37, 61, text)), mask)


@pytest.mark.parametrize("counts", ["PPP", "o", "o" * 40, "0", (1, 2)])
def test_broken_masks_are_refused(counts: str | tuple[int, ...]) -> None:
    with pytest.raises(DatasetError, match="run lengths"):
        decode_runs(RunLengths(4, 4, counts))


# -- augment


@pytest.mark.parametrize("format", LABELLED)
def test_copies_are_written_in_the_same_format(scenes: Path, tmp_path: Path, format: str) -> None:
    made = augment_boxes(scenes / format, format, tmp_path / "out", EVERYTHING)
    found = read_boxes(tmp_path / "out", format)
    assert len(found.pictures) == 30 and found.class_names == ["digit_3", "digit_5", "digit_8"]
    assert [p.name for p in found.pictures] == [p.name for p in made.pictures]
    originals = {p.name: p for p in read_boxes(scenes / format, format).pictures}
    for picture in found.pictures:
        if picture.name in originals:
            assert [b.xyxy for b in picture.boxes] == [b.xyxy for b in originals[picture.name].boxes]
    assert found.box_count > 1.5 * sum(len(p.boxes) for p in originals.values())


def test_the_same_seed_gives_the_same_files(scenes: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = dataclasses.replace(EVERYTHING, seed=seed, copies=1, keep_originals=False)
        augment_boxes(scenes / "coco", "coco", tmp_path / name, options)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 11
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert all((tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes() for f in files)


@pytest.mark.parametrize(
    "options",
    [
        AugmentOptions(flip_horizontal=1),
        AugmentOptions(flip_vertical=1),
        AugmentOptions(zoom=0.5, seed=3),
        AugmentOptions(shift=0.2, seed=4),
        AugmentOptions(flip_horizontal=1, zoom=0.3, shift=0.1),
    ],
)
@pytest.mark.parametrize("mask", ["none", "polygon", "runs"])
def test_boxes_stay_on_their_pixels(tmp_path: Path, options: AugmentOptions, mask: str) -> None:
    box = Box(x1=20, y1=30, x2=50, y2=45, label=0, kitti_3d=("1",) * 8)
    pixels = np.zeros((80, 100), bool)
    pixels[30:45, 20:50] = True
    masks = {"polygon": Polygons(((20, 30, 50, 30, 50, 45, 20, 45),)), "runs": encode_runs(pixels)}
    made = one_picture(tmp_path / "p", dataclasses.replace(box, mask=masks.get(mask)))
    write_boxes(made, "coco", tmp_path / "raw")
    augment_boxes(tmp_path / "raw", "coco", tmp_path / "out", dataclasses.replace(options, keep_originals=False))
    (picture,) = read_boxes(tmp_path / "out", "coco").pictures
    (moved,) = picture.boxes
    with Image.open(tmp_path / "out" / picture.path) as image:
        rows, columns = np.nonzero(np.asarray(image)[..., 0] > 250)
    seen = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(np.array(moved.xyxy) - seen).max() <= 1.6
    assert moved.kitti_3d == () and (moved.mask is None) == (mask == "none")
    if isinstance(moved.mask, RunLengths):
        assert abs(decode_runs(moved.mask).sum() - len(rows)) < 0.2 * len(rows)


def test_what_leaves_the_picture_is_cut_truncated_or_left_out(tmp_path: Path) -> None:
    made = one_picture(tmp_path / "p", Box(x1=0, y1=0, x2=100, y2=80, label=0), Box(x1=0, y1=0, x2=3, y2=3, label=1))
    write_boxes(made, "coco", tmp_path / "raw")
    found = augment_boxes(
        tmp_path / "raw", "coco", tmp_path / "out", AugmentOptions(shift=0.3, seed=1, keep_originals=False)
    )
    whole = found.pictures[0].boxes[0]
    assert whole.truncated == round(1 - whole.width * whole.height / 8000, 2) > 0.1
    none = AugmentOptions(shift=0.3, seed=1, keep_originals=False, min_visible=0.99)
    assert augment_boxes(tmp_path / "raw", "coco", tmp_path / "out", none).pictures[0].boxes[0].label == 1


def test_names_that_are_taken_and_formats_without_boxes_are_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'raw' has no boxes"):
        augment_boxes(scenes / "kitti/images", "raw", tmp_path / "no", AugmentOptions())
    augment_boxes(scenes / "kitti", "kitti", tmp_path / "once", AugmentOptions())
    with pytest.raises(DatasetError, match=r"has a picture scene_00000_aug1\.png already"):
        augment_boxes(tmp_path / "once", "kitti", tmp_path / "no", AugmentOptions())
    assert not (tmp_path / "no").exists()

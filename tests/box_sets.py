"""Detection sets for tests: small ones by hand, random ones by Hypothesis, digits in scenes by the example."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path, PurePosixPath
from types import ModuleType

from hypothesis import strategies as st
from PIL import Image
from prefect_trainyard.datasets.boxes import (
    DONT_CARE,
    Box,
    BoxClass,
    BoxSet,
    Picture,
    Polygons,
    RunLengths,
    is_dont_care,
    normal_class_name,
    to_pixels,
)

EXAMPLE = Path(__file__).parents[1] / "examples" / "digit_scenes.py"
SIZES = ((16, 12), (40, 30), (7, 64))


def digit_scenes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digit_scenes", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_pictures(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(SIZES):
        Image.new("RGB", size, (number * 60, 90, 30)).save(root / f"{number}.png")


def names(blanks: bool) -> st.SearchStrategy[str]:
    alphabet = st.characters(categories=["L", "N", "P", "S"], include_characters=" " if blanks else "")
    return (
        st.text(alphabet, min_size=1, max_size=12)
        .map(lambda name: normal_class_name(name) or "x")
        .filter(lambda name: not is_dont_care(name))
    )


_3D = st.lists(st.sampled_from(["-10", "1.57", "0", "-1000", "3.25e1"]), min_size=8, max_size=8).filter(
    lambda columns: any(float(c) for c in columns)
)


@st.composite
def edges(draw: st.DrawFn, size: int) -> tuple[float, float]:
    """Return two edges on a side of `size` pixels, not equal, as the canonical form keeps them."""
    micro = st.integers(0, size * 1_000_000) | st.integers(0, size).map(lambda n: n * 1_000_000)
    low, high = sorted(draw(st.tuples(micro, micro).filter(lambda pair: pair[0] != pair[1])))
    return to_pixels(low / 1e6), to_pixels(high / 1e6)


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int], classes: int, full: bool) -> Box:
    """Return a box that every format holds, or with `full` one that only COCO does."""
    (x1, x2), (y1, y2) = draw(edges(size[0])), draw(edges(size[1]))
    box = Box(x1=x1, y1=y1, x2=x2, y2=y2, label=draw(st.integers(DONT_CARE, classes - 1)))
    if not full:
        return dataclasses.replace(
            box, truncated=float(draw(st.integers(0, 1))), occluded=draw(st.integers(0, 1)), score=draw(scores())
        )
    return dataclasses.replace(
        box,
        truncated=draw(st.sampled_from([-1.0, 0.0, 0.33, 1.0])),
        occluded=draw(st.integers(-1, 3)),
        score=draw(scores()),
        difficult=draw(st.booleans()),
        crowd=draw(st.booleans()),
        pose=draw(st.sampled_from(["", "Left", "Frontal"])),
        kitti_3d=tuple(draw(st.just([]) | _3D)),
        mask=draw(masks(size)),
    )


def scores() -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(0, 1)


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> Polygons | RunLengths | None:
    ones = draw(st.integers(0, size[0] * size[1]))
    point = st.floats(0, max(size), width=32)
    parts = st.lists(st.lists(point, min_size=6, max_size=10).filter(lambda part: len(part) % 2 == 0), min_size=1)
    return draw(
        st.none()
        | st.just(RunLengths(size[1], size[0], (size[0] * size[1] - ones, ones)))
        | st.just(RunLengths(size[1], size[0], "PPYo0"))
        | parts.map(lambda found: Polygons(tuple(map(tuple, found))))
    )


@st.composite
def box_sets(draw: st.DrawFn, root: Path, *, full: bool = False, blanks: bool = True) -> BoxSet:
    """Return a set over the pictures of `write_pictures`, which lie in `root`."""
    found = draw(st.lists(names(blanks), min_size=1, max_size=4, unique=True))
    pictures = tuple(
        Picture(
            path=PurePosixPath(f"{number}.png"),
            name=PurePosixPath(f"{number}.png"),
            width=size[0],
            height=size[1],
            boxes=tuple(draw(st.lists(boxes(size, len(found), full), max_size=4))),
        )
        for number, size in enumerate(SIZES)
    )
    return BoxSet(root=root, pictures=pictures, classes=tuple(BoxClass(name=name) for name in found))


def content(found: BoxSet) -> object:
    """Return what a set says, without where it lies and without ids."""
    pictures = [
        (p.name, p.width, p.height, [dataclasses.replace(box, id=None) for box in p.boxes]) for p in found.pictures
    ]
    return found.class_names, pictures

"""Pictures with boxes, in memory: the one form that all annotation formats are read into and written from.

Units: a box is left, top, right and bottom edge in pixels from the upper left corner of the picture, so that
the whole picture is (0, 0, width, height). Edges are kept to a millionth of a pixel: that is what makes
"position and size" (COCO) and "counted from 1" (Pascal VOC) come back as they were.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

#: Label of a region that nobody annotated: neither finding nor missing something there counts. KITTI's DontCare.
DONT_CARE = -1
DONT_CARE_NAME = "DontCare"


def to_pixels(value: float) -> float:
    """Return an edge as it is kept: to a millionth of a pixel, and never as -0.0."""
    return round(value, 6) + 0.0


def normal_class_name(name: str) -> str | None:
    """Return the name of a class as it is compared and kept; None when it is empty or does not print."""
    name = unicodedata.normalize("NFC", name.strip())
    return name if name and name.isprintable() else None


def is_dont_care(name: str) -> bool:
    return name.lower().replace(" ", "") == DONT_CARE_NAME.lower()


@dataclass(frozen=True, slots=True)
class Polygons:
    """An outline in one or more parts, each x, y, x, y, ... in pixels, as COCO has it."""

    parts: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class RunLengths:
    """A mask as COCO packs it: lengths of runs of 0 and 1 in turn, down the columns; packed as text or plain."""

    height: int
    width: int
    counts: str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One annotated object. What a format does not know has the value that means "nothing special"."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    """Position in the classes of the set; DONT_CARE, the -1 that counts from the end of a list, for none of them."""
    crowd: bool = False
    """One box around many objects; COCO's iscrowd."""
    difficult: bool = False
    """Left out of the score by Pascal VOC."""
    truncated: float = 0.0
    """How much of the object is outside the picture, 0 to 1; -1 where KITTI says that nobody knows."""
    occluded: int = 0
    """KITTI: 0 visible, 1 partly, 2 largely, 3 unknown, -1 nobody looked. Pascal VOC: 0 or 1."""
    pose: str = ""
    """Pascal VOC's view of the object: Left, Frontal, ..."""
    area: float | None = None
    """Square pixels of the object itself, where it is not those of the box."""
    mask: Polygons | RunLengths | None = None
    kitti_3d: tuple[str, ...] = ()
    """Eight columns of KITTI as they were written: alpha, then height, width, length, x, y, z and rotation."""
    score: float | None = None
    """How sure a network was, for predictions."""
    id: int | None = None
    """COCO's annotation id."""

    @property
    def width(self) -> float:
        return to_pixels(self.x2 - self.x1)

    @property
    def height(self) -> float:
        return to_pixels(self.y2 - self.y1)

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def is_ignored(self) -> bool:
        """Whether finding this is neither right nor wrong."""
        return self.crowd or self.label == DONT_CARE


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image file and what is in it."""

    path: PurePosixPath
    """Below the root of the set."""
    name: PurePosixPath
    """Below the folder of the images: what makes it the same picture in another format."""
    width: int
    """0, and the height as well, for a picture that is not in this piece of its set."""
    height: int
    boxes: tuple[Box, ...] = ()
    id: int | None = None
    """COCO's image id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxClass:
    """A class of objects; `id` and `supercategory` are COCO's."""

    name: str
    id: int | None = None
    supercategory: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxSet:
    """Annotated pictures, sorted by name, and their classes in the order of the labels."""

    root: Path
    pictures: tuple[Picture, ...]
    classes: tuple[BoxClass, ...]
    notes: tuple[str, ...] = ()
    """What the reader decided or left out, a sentence each, for the log of the job."""

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def box_count(self) -> int:
        return sum(len(picture.boxes) for picture in self.pictures)

    def class_counts(self) -> dict[str, int]:
        """Return how many boxes each class has, in the order of the labels."""
        counts = Counter(box.label for picture in self.pictures for box in picture.boxes)
        return {c.name: counts[label] for label, c in enumerate(self.classes)}

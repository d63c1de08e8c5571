"""The formats of object detection by name: how each is read, checked and written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from . import coco, kitti, pascal_voc, unlabelled
from .box_folder import ReadOptions
from .boxes import BoxSet
from .coco import place_coco, read_coco, write_coco
from .folder import FolderContent, read_folder
from .kitti import check_kitti, place_kitti, read_kitti, write_kitti
from .pascal_voc import check_pascal_voc, place_pascal_voc, read_pascal_voc, write_pascal_voc
from .problems import Problems
from .unlabelled import place_coco_raw, place_raw, read_coco_raw, read_raw


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxFormat:
    """One format. `read` leaves out what is wrong; `check` says what the format cannot hold."""

    read: Callable[[FolderContent, ReadOptions, Problems], BoxSet]
    write: Callable[[BoxSet, Path], None] | None = None
    """Writes the annotations alone; None for formats without."""
    check: Callable[[BoxSet], None] = lambda boxes: None
    place: Callable[[FolderContent], dict[PurePosixPath, PurePosixPath]]
    """Returns where each file of a piece belongs in a set without leading folders."""
    images_folder: str = "images"
    labels_folder: str | None = None
    """Where a file per picture has its boxes."""
    annotations_file: str | None = None
    """The one file that has the boxes of all pictures."""
    layout: str = "Send pictures alone."
    """How the files of a set must lie."""


FORMATS: dict[str, BoxFormat] = {
    "kitti": BoxFormat(
        read=read_kitti,
        place=place_kitti,
        write=write_kitti,
        check=check_kitti,
        labels_folder=kitti.LABELS_FOLDER,
        layout=kitti.LAYOUT,
    ),
    "coco": BoxFormat(
        read=read_coco,
        place=place_coco,
        write=write_coco,
        annotations_file=coco.ANNOTATIONS_FILE,
        layout=coco.LAYOUT,
    ),
    "pascal_voc": BoxFormat(
        read=read_pascal_voc,
        place=place_pascal_voc,
        write=write_pascal_voc,
        check=check_pascal_voc,
        images_folder=pascal_voc.IMAGES_FOLDER,
        labels_folder=pascal_voc.ANNOTATIONS_FOLDER,
        layout=pascal_voc.LAYOUT,
    ),
    "coco_raw": BoxFormat(read=read_coco_raw, place=place_coco_raw, layout=unlabelled.LAYOUT),
    "raw": BoxFormat(read=read_raw, place=place_raw),
}

#: Formats with annotations, between which sets are converted.
LABELLED = tuple(name for name, format in FORMATS.items() if format.write)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a set holds and all that is wrong with it."""

    boxes: BoxSet
    problems: Problems


def inspect_boxes(root: Path, format: str, options: ReadOptions | None = None) -> Inspection:
    """Return what can be read of the set below `root`, and every problem in it.

    Raises:
        DatasetError: the layout is not that of `format`, so that nothing can be read.
    """
    reader = _format(format)
    if not root.is_dir():
        raise DatasetError("The data set has no files.", hint="Upload an archive first.")
    problems = Problems()
    boxes = reader.read(read_folder(root), options or ReadOptions(), problems)
    return Inspection(boxes, problems)


def read_boxes(root: Path, format: str, options: ReadOptions | None = None) -> BoxSet:
    """Return the set below `root`.

    Raises:
        DatasetError: the layout is not that of `format`, or something is wrong: the number of problems, and the
            first ten with file and line.
    """
    found = inspect_boxes(root, format, options)
    found.problems.refuse()
    return found.boxes


def write_boxes(boxes: BoxSet, format: str, folder: Path) -> None:
    """Write pictures and annotations into the empty folder `folder`.

    Raises:
        DatasetError: the format cannot hold the set.
    """
    images = folder / _format(format).images_folder
    write_annotations(boxes, format, folder)
    for picture in boxes.pictures:
        target = images / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(boxes.root / picture.path, target)


def write_annotations(boxes: BoxSet, format: str, folder: Path) -> None:
    """Write the annotations alone: the pictures belong into the format's `images_folder`, by their names."""
    writer = _format(format)
    if writer.write is None:
        raise DatasetError(f"The format {format} has no annotations.", hint=f"Use one of {', '.join(LABELLED)}.")
    writer.check(boxes)
    writer.write(boxes, folder)


def _format(name: str) -> BoxFormat:
    if name not in FORMATS:
        raise DatasetError(
            f"The format {name!r} does not go with object_detection.", hint=f"Use one of {', '.join(FORMATS)}."
        )
    return FORMATS[name]

"""annotation_format_convert: a detection set in another format, pictures included.

What both formats can hold stays as it was. COCO holds all that KITTI and Pascal VOC do (under `attributes`).
KITTI has no crowds, masks, poses and ids; Pascal VOC neither crowds, masks and ids nor the third dimension,
and knows `truncated` and `occluded` only as yes or no.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter, SilentReporter
from .box_folder import ReadOptions
from .box_formats import LABELLED, read_boxes, write_boxes
from .boxes import DONT_CARE, BoxClass, BoxSet, is_dont_care, normal_class_name
from .new_folder import new_folder


def convert_annotations(
    source: Path,
    source_format: str,
    destination: Path,
    target_format: str,
    *,
    options: ReadOptions | None = None,
    rename: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
) -> BoxSet:
    """Write the set below `source` as the folder `destination` in `target_format` and return what was read.

    `rename` gives classes other names; two that get the same name become one, `DontCare` makes regions to ignore.
    The folder appears whole or not at all; one that is there is replaced.

    Raises:
        DatasetError: something is wrong with the set, or the format cannot hold it.
        StorageFull: no room left.
    """
    reporter = reporter or SilentReporter()
    if target_format not in LABELLED:
        raise DatasetError(
            f"Annotations cannot be written as {target_format!r}.", hint=f"Use one of {', '.join(LABELLED)}."
        )
    boxes = read_boxes(source, source_format, options)
    for note in boxes.notes:
        reporter.log(note)
    if rename:
        boxes = rename_classes(boxes, rename)
    for loss in losses(boxes, target_format):
        reporter.log(loss)
    with new_folder(destination, "write the converted data set") as folder:
        write_boxes(boxes, target_format, folder)
    reporter.progress(1.0, f"{len(boxes.pictures)} pictures with {boxes.box_count} boxes written as {target_format}")
    return boxes


def rename_classes(boxes: BoxSet, names: Mapping[str, str]) -> BoxSet:
    """Return the set with other class names; classes that get the same name become one.

    Raises:
        DatasetError: a name is not in the set, or a new one is empty or does not print.
    """
    if unknown := sorted(set(names) - set(boxes.class_names)):
        raise DatasetError(
            f"There is no class {unknown[0]!r} to rename.", hint=f"The classes are {', '.join(boxes.class_names[:20])}."
        )
    classes: dict[str, BoxClass] = {}
    labels = {DONT_CARE: DONT_CARE}
    for label, old in enumerate(boxes.classes):
        name = normal_class_name(names.get(old.name, old.name))
        if name is None:
            raise DatasetError(f"The new name of the class {old.name!r} is empty or does not print.")
        if is_dont_care(name):
            labels[label] = DONT_CARE
        else:
            classes.setdefault(name, dataclasses.replace(old, name=name))
            labels[label] = list(classes).index(name)
    pictures = tuple(
        dataclasses.replace(p, boxes=tuple(dataclasses.replace(b, label=labels[b.label]) for b in p.boxes))
        for p in boxes.pictures
    )
    return dataclasses.replace(boxes, pictures=pictures, classes=tuple(classes.values()))


def losses(boxes: BoxSet, target_format: str) -> list[str]:
    """Return what `target_format` cannot hold of this set, a sentence each, for the log of the job."""
    if target_format == "coco":
        return []
    every = [box for picture in boxes.pictures for box in picture.boxes]
    found = {
        "crowd marks": sum(box.crowd for box in every),
        "masks": sum(box.mask is not None for box in every),
        "areas of objects": sum(box.area is not None for box in every),
    }
    if target_format == "kitti":
        found |= {"marks `difficult`": sum(b.difficult for b in every), "poses": sum(bool(b.pose) for b in every)}
    else:
        found |= {
            "3D columns": sum(bool(box.kitti_3d) for box in every),
            "degrees of truncation": _count(box.truncated not in {0.0, 1.0} for box in every),
            "degrees of occlusion": _count(box.occluded not in {0, 1} for box in every),
        }
    return [f"{target_format} cannot hold {what}: {count} are left out." for what, count in found.items() if count]


def _count(facts: Iterable[bool]) -> int:
    return sum(facts)

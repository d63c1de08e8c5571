"""KITTI: a text file per picture with a line per object.

[any/folders/]images/<name>.png      or image_2/
[any/folders/]labels/<name>.txt      or label_2/; an empty file says that nothing is in the picture
[any/folders/]classes.txt            optional: the classes that there are, in the order of their labels

A line has 15 columns, 16 for predictions: class, truncated, occluded, alpha, left, top, right, bottom,
height, width, length, x, y, z, rotation, score. Edges are pixels from 0; DontCare marks a region to ignore.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from .box_checks import ANY_SIZE, Outside, checked_edges, parse_number
from .box_folder import (
    ClassNames,
    ReadOptions,
    Size,
    by_stem,
    class_names,
    common_notes,
    list_label_files,
    list_pictures,
    measure,
    pair_folders,
    place_pairs,
    read_text,
    write_class_list,
)
from .boxes import DONT_CARE_NAME, Box, BoxSet, Picture
from .folder import FolderContent
from .problems import Problems

IMAGES_FOLDER, LABELS_FOLDER = "images", "labels"
LAYOUT = "Put pictures into `images/` and a text file of the same name per picture into `labels/`."

_IMAGES = frozenset({"images", "image_2"})
_LABELS = frozenset({"labels", "label_2"})
_MAX_BYTES = 16 * 2**20
_NO_3D = ("0",) * 8
_COLUMNS_HINT = (
    "A line is: class truncated occluded alpha left top right bottom, then 3 sizes, 3 places and a rotation "
    "(0 when unknown), and a score for predictions. Class names have no blanks."
)


def read_kitti(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return the set; single faults go to `problems`, and what has one is left out.

    Raises:
        DatasetError: the layout is not that of KITTI, so that nothing can be read.
    """
    images, labels = pair_folders(content, _IMAGES, _LABELS, LAYOUT, partial=options.partial)
    files = {} if images is None else list_pictures(content, images)
    stems = by_stem(files)
    label_files = list_label_files(content, labels, ".txt")
    names = class_names(content, images or labels, options)
    pictures = []
    for stem, path in label_files.items():
        if stem in stems:
            continue
        if not options.partial:
            problems.add("missing picture", str(path), f"there is no picture {images}/{stem}.*", "Send it as well.")
            continue
        boxes = _read_labels(content, path, ANY_SIZE, options.outside, names, problems)
        pictures.append(Picture(path=stem, name=stem, width=0, height=0, boxes=boxes))
    sizes = measure(content, files.values(), options, problems)
    for stem, name in stems.items():
        path = files[name]
        if stem not in label_files:
            if options.partial:
                continue
            what = f"it has no label file {labels}/{stem}.txt"
            problems.add("missing labels", str(path), what, "An empty label file says that nothing is in the picture.")
        elif path in sizes:
            boxes = _read_labels(content, label_files[stem], sizes[path], options.outside, names, problems)
            pictures.append(Picture(path=path, name=name, width=sizes[path][0], height=sizes[path][1], boxes=boxes))
    found, classes = names.finish(pictures)
    return BoxSet(root=content.root, pictures=found, classes=classes, notes=tuple(common_notes(problems, found)))


def _read_labels(
    content: FolderContent,
    path: PurePosixPath,
    size: Size,
    outside: Outside,
    names: ClassNames,
    problems: Problems,
) -> tuple[Box, ...]:
    boxes = []
    for number, line in enumerate((read_text(content, path, _MAX_BYTES, problems) or "").split("\n"), start=1):
        columns = line.split()
        if columns and (box := _box(columns, f"{path}, line {number}", size, outside, names, problems)):
            boxes.append(box)
    return tuple(boxes)


def _box(
    columns: list[str], where: str, size: Size, outside: Outside, names: ClassNames, problems: Problems
) -> Box | None:
    if len(columns) not in {15, 16}:
        problems.add("wrong columns", where, f"there are {len(columns)} columns, not 15 or 16", _COLUMNS_HINT)
        return None
    numbers = []
    for position, column in enumerate(columns[1:], start=2):
        number = parse_number(column)
        if number is None or not math.isfinite(number):
            what = f"column {position} is {column[:40]!a}, which is no finite number"
            problems.add("not a number", where, what, _COLUMNS_HINT)
            return None
        numbers.append(number)
    truncated, occluded = numbers[0], numbers[1]
    if not (0 <= truncated <= 1 or truncated == -1):
        problems.add("out of range", where, f"truncated is {truncated:g}, not 0 to 1 or -1", _COLUMNS_HINT)
        return None
    if occluded not in {-1, 0, 1, 2, 3}:
        problems.add("out of range", where, f"occluded is {occluded:g}, not 0, 1, 2, 3 or -1", _COLUMNS_HINT)
        return None
    label = names.label(columns[0], where, problems)
    edges = checked_edges((numbers[3], numbers[4], numbers[5], numbers[6]), *size, outside, where, problems)
    if label is None or edges is None:
        return None
    rest = (columns[3], *columns[8:15])
    # why: sets without the third dimension are full of zeros, which are no numbers worth keeping.
    has_3d = any(float(column) for column in rest)
    return Box(
        x1=edges[0],
        y1=edges[1],
        x2=edges[2],
        y2=edges[3],
        label=label,
        truncated=truncated + 0.0,
        occluded=int(occluded),
        kitti_3d=rest if has_3d else (),
        score=numbers[14] if len(columns) == 16 else None,
    )


def place_kitti(content: FolderContent) -> dict[PurePosixPath, PurePosixPath]:
    """Return where the files of a piece belong in a set without leading folders."""
    images, labels = pair_folders(content, _IMAGES, _LABELS, LAYOUT, partial=True)
    return place_pairs(content, images, labels, (IMAGES_FOLDER, LABELS_FOLDER), ".txt")


def check_kitti(boxes: BoxSet) -> None:
    """Raise `DatasetError` when KITTI cannot hold this set."""
    blank = next((c.name for c in boxes.classes if any(map(str.isspace, c.name))), None)
    if blank is not None:
        raise DatasetError(
            f"KITTI cannot hold the class {blank!r}: its columns are divided by blanks.",
            hint=f"Rename it, for example to {'_'.join(blank.split())!r}.",
        )
    by_stem({picture.name: picture.path for picture in boxes.pictures})


def write_kitti(boxes: BoxSet, folder: Path) -> None:
    """Write the label files below `folder`, and `classes.txt`, which keeps the order of the labels."""
    check_kitti(boxes)
    names = [*boxes.class_names, DONT_CARE_NAME]
    for picture in boxes.pictures:
        file = folder / LABELS_FOLDER / picture.name.with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(_line(box, names[box.label]) for box in picture.boxes), encoding="utf-8")
    write_class_list(boxes, folder)


def _line(box: Box, name: str) -> str:
    alpha, *rest = box.kitti_3d or _NO_3D
    edges = " ".join(_number(edge) for edge in box.xyxy)
    score = "" if box.score is None else f" {box.score!r}"
    return f"{name} {_number(box.truncated)} {box.occluded} {alpha} {edges} {' '.join(rest)}{score}\n"


def _number(value: float) -> str:
    """Return the shortest text that reads back as `value`, at least with two digits after the point."""
    text = f"{value:.2f}"
    return text if float(text) == value else repr(value)

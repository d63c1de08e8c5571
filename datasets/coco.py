"""COCO: one JSON file for all pictures.

[any/folders/]images/...             the pictures; without such a folder, whatever lies beside the JSON file
[any/folders/]annotations.json       or the only .json there is, in the form of instances_*.json

What KITTI and Pascal VOC know and COCO does not goes under `attributes`, where CVAT puts `occluded`:
truncated, occluded, difficult, pose and KITTI's columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..schemas.errors import DatasetError
from .box_checks import ANY_SIZE, checked_edges
from .box_folder import ReadOptions, Size, common_notes, has_folder, list_pictures, measure, one_folder, read_text
from .boxes import (
    DONT_CARE,
    DONT_CARE_NAME,
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
from .folder import FolderContent
from .json_lines import JsonLines
from .problems import Problems

IMAGES_FOLDER, ANNOTATIONS_FILE = "images", "annotations.json"
LAYOUT = "Put pictures into `images/` and `annotations.json` beside that folder."

#: The annotations of all of COCO's training pictures have 450 MB.
_MAX_BYTES = 2 * 2**30
_KNOWN_KEYS = frozenset(
    {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "attributes", "score", "ignore"}
)
_KITTI_COLUMNS = 8
_IMAGES = frozenset({IMAGES_FOLDER})


def read_coco(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return the set; single faults go to `problems`, and what has one is left out.

    Raises:
        DatasetError: the layout is not that of COCO, so that nothing can be read.
    """
    file = _find_annotations(content, partial=options.partial)
    if file is None:
        measure(content, list_pictures(content, one_folder(content, _IMAGES, LAYOUT)).values(), options, problems)
        return BoxSet(root=content.root, pictures=(), classes=())
    folder = images_folder(content, file.parent)
    files = list_pictures(content, folder, required=not options.partial)
    text = read_text(content, file, _MAX_BYTES, problems)
    data = None if text is None else _parse(text, file, problems)
    if text is None or data is None:
        return BoxSet(root=content.root, pictures=(), classes=())
    reading = _Reading(str(file), JsonLines(text), data, options, problems)
    classes, labels = _classes(reading)
    images = _images(reading, files, folder)
    absent = {image_id: name for image_id, (_, _, name) in images.items() if name not in files}
    there = files.values() if options.partial else (files[name] for _, _, name in images.values())
    sizes = measure(content, there, options, problems)
    declared = {
        image_id: (files[name], name, sizes[files[name]])
        for image_id, (position, entry, name) in images.items()
        if files.get(name) in sizes and _size_fits(reading, position, entry, sizes[files[name]])
    }
    known = {image_id: size for image_id, (_, _, size) in declared.items()} | dict.fromkeys(absent, ANY_SIZE)
    boxes = _boxes(reading, known, set(images), labels)
    pictures = [
        Picture(path=path, name=name, width=size[0], height=size[1], boxes=tuple(boxes.get(image_id, ())), id=image_id)
        for image_id, (path, name, size) in declared.items()
    ]
    pictures += [
        Picture(path=name, name=name, width=0, height=0, boxes=tuple(boxes.get(image_id, ())), id=image_id)
        for image_id, name in absent.items()
    ]
    pictures.sort(key=lambda picture: picture.name)
    notes = common_notes(problems, pictures)
    if rest := len(files.keys() - {name for _, _, name in images.values()}):
        notes.append(f"{rest} pictures are not in {file} and were left out.")
    if reading.unknown_keys:
        notes.append(f"Not kept of the annotations: {', '.join(sorted(reading.unknown_keys)[:10])}.")
    return BoxSet(root=content.root, pictures=tuple(pictures), classes=classes, notes=tuple(notes))


def images_folder(content: FolderContent, beside: PurePosixPath) -> PurePosixPath:
    """Return the folder `images`, or `beside` when there is none."""
    return one_folder(content, _IMAGES, LAYOUT) if has_folder(content, _IMAGES) else beside


def place_coco(content: FolderContent) -> dict[PurePosixPath, PurePosixPath]:
    """Return where the files of a piece belong in a set without leading folders."""
    file = _find_annotations(content, partial=True)
    folder = one_folder(content, _IMAGES, LAYOUT) if file is None else images_folder(content, file.parent)
    pictures = list_pictures(content, folder, required=file is None)
    places = {path: PurePosixPath(IMAGES_FOLDER, name) for name, path in pictures.items()}
    return places if file is None else places | {file: PurePosixPath(ANNOTATIONS_FILE)}


def _find_annotations(content: FolderContent, *, partial: bool = False) -> PurePosixPath | None:
    """Return the file with the annotations; None where a piece of a set has none.

    Raises:
        DatasetError: there is none, or several of which each might be it.
    """
    found = [path for path in content.files if path.suffix.lower() == ".json"]
    named = [path for path in found if path.name.lower() == ANNOTATIONS_FILE]
    if named:
        top = min(len(path.parts) for path in named)
        found = [path for path in named if len(path.parts) == top]
    if not found and partial:
        return None
    if not found:
        raise DatasetError(f"There is no {ANNOTATIONS_FILE}. {content.seen()}", hint=LAYOUT)
    if len(found) > 1:
        raise DatasetError(
            f"It is not clear which file holds the annotations: {', '.join(map(str, found[:5]))}.",
            hint=f"Name the one {ANNOTATIONS_FILE}.",
        )
    return found[0]


@dataclass(slots=True)
class _Reading:
    file: str
    lines: JsonLines
    data: dict[str, list[Any]]
    options: ReadOptions
    problems: Problems
    unknown_keys: set[str] = field(default_factory=set)

    def add(self, kind: str, key: str, position: int, what: str, hint: str = "") -> None:
        where = f"{self.file}, line {self.lines.line(key, position)}, {key}[{position}]"
        self.problems.add(kind, where, what, hint)

    def entries(self, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield position and content of the elements of a list that are objects; the others are problems."""
        for position, entry in enumerate(self.data[key]):
            if isinstance(entry, dict):
                yield position, entry
            else:
                self.add("wrong type", key, position, "it is no JSON object")

    def id_of(self, entry: dict[str, Any], name: str, key: str, position: int) -> int | None:
        value = entry.get(name)
        if isinstance(value, int) and _is_number(value):
            return value
        what = f"it has no {name}" if value is None else f"its {name} is {_shown(value)}, which is no integer"
        self.add("wrong type", key, position, what)
        return None


def _parse(text: str, file: PurePosixPath, problems: Problems) -> dict[str, list[Any]] | None:
    """Return the JSON object with its three lists, or None after a problem."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON number")

    try:
        data = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        where = f"{file}, line {error.lineno}, column {error.colno}"
        problems.add("bad JSON", where, f"it is not JSON: {error.msg}")
        return None
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        problems.add("bad JSON", str(file), what)
        return None
    if not isinstance(data, dict):
        problems.add("bad JSON", str(file), "it holds no JSON object", "See https://cocodataset.org/#format-data.")
        return None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            problems.add("bad JSON", str(file), f"it has no list {key!r}", "See https://cocodataset.org/#format-data.")
            return None
    return data


def _classes(reading: _Reading) -> tuple[tuple[BoxClass, ...], dict[int, int | None]]:
    """Return the classes, and the label of each category id: None for one that is not allowed."""
    allowed = reading.options.classes
    found: dict[str, BoxClass] = {}
    names: dict[int, str] = {}
    for position, entry in reading.entries("categories"):
        category = reading.id_of(entry, "id", "categories", position)
        raw = entry.get("name")
        name = normal_class_name(raw) if isinstance(raw, str) else None
        if name is None:
            reading.add("bad class name", "categories", position, f"its name is {_shown(raw)}")
        elif category is not None and category in names:
            reading.add("duplicate id", "categories", position, f"the id {category} is that of {names[category]!r}")
        elif name in found:
            reading.add("duplicate class", "categories", position, f"the class {name!r} is there twice")
        elif category is not None:
            names[category] = name
            above = entry.get("supercategory")
            supercategory = above if isinstance(above, str) and above.isprintable() else ""
            found[name] = BoxClass(name=name, id=category, supercategory=supercategory)
    if allowed is None:
        classes = tuple(c for c in found.values() if not is_dont_care(c.name))
    else:
        classes = tuple(found.get(name, BoxClass(name=name)) for name in allowed)
    positions = {c.name: label for label, c in enumerate(classes)}
    labels = {i: DONT_CARE if is_dont_care(name) else positions.get(name) for i, name in names.items()}
    return classes, labels


def _images(
    reading: _Reading, files: dict[PurePosixPath, PurePosixPath], folder: PurePosixPath
) -> dict[int, tuple[int, dict[str, Any], PurePosixPath]]:
    """Return position, entry and picture name of every image id whose file is there, or may be in another piece."""
    found: dict[int, tuple[int, dict[str, Any], PurePosixPath]] = {}
    taken: dict[PurePosixPath, int] = {}
    names = {path: name for name, path in files.items()}
    for position, entry in reading.entries("images"):
        image_id = reading.id_of(entry, "id", "images", position)
        file_name = entry.get("file_name")
        if image_id is None:
            continue
        if not isinstance(file_name, str) or not file_name:
            reading.add("wrong type", "images", position, f"its file_name is {_shown(file_name)}")
            continue
        # why: a name only selects among the files that were found, so that no name leads anywhere else.
        path = PurePosixPath(file_name)
        name = path if path in files else names.get(folder.parent / path, path if reading.options.partial else None)
        if image_id in found:
            reading.add("duplicate id", "images", position, f"the id {image_id} is that of {found[image_id][2]}")
        elif name is None:
            what = f"there is no picture {folder}/{file_name[:200]}"
            reading.add("missing picture", "images", position, what, "Send it as well, or take it out of the file.")
        elif name in taken:
            reading.add("duplicate picture", "images", position, f"{name} is image {taken[name]} already")
        else:
            found[image_id] = position, entry, name
            taken[name] = image_id
    return found


def _size_fits(reading: _Reading, position: int, entry: dict[str, Any], size: Size) -> bool:
    given = entry.get("width"), entry.get("height")
    if given == size or given == (None, None):
        return True
    what = f"its size is {_shown(given[0])} x {_shown(given[1])}, but {entry['file_name']} has {size[0]} x {size[1]}"
    hint = "Annotate the picture as it is shown: upright by its EXIF data."
    reading.add("wrong size", "images", position, f"{what} pixels", hint)
    return False


def _boxes(
    reading: _Reading, sizes: dict[int, Size], images: set[int], labels: dict[int, int | None]
) -> dict[int, list[Box]]:
    """Return the boxes of each image id."""
    boxes: dict[int, list[Box]] = {}
    seen: dict[int, int] = {}
    listed = (entry.get("id") for entry in reading.data["images"] if isinstance(entry, dict))
    all_images = {image_id for image_id in listed if isinstance(image_id, int)}
    for position, entry in reading.entries("annotations"):
        image_id = reading.id_of(entry, "image_id", "annotations", position)
        if image_id is None:
            continue
        if image_id not in all_images:
            reading.add("unknown image", "annotations", position, f"there is no image with the id {image_id}")
            continue
        if "id" in entry:
            own_id = reading.id_of(entry, "id", "annotations", position)
            if own_id is not None and own_id in seen:
                what = f"the id {own_id} is that of annotations[{seen[own_id]}]"
                reading.add("duplicate id", "annotations", position, what)
                continue
            if own_id is None:
                continue
            seen[own_id] = position
        # why: a picture that is missing or broken is one problem, not one for each of its boxes.
        if image_id in images and image_id in sizes:
            box = _box(reading, position, entry, sizes[image_id], labels)
            if box is not None:
                boxes.setdefault(image_id, []).append(box)
    return boxes


def _box(
    reading: _Reading, position: int, entry: dict[str, Any], size: Size, labels: dict[int, int | None]
) -> Box | None:
    def problem(kind: str, what: str, hint: str = "") -> None:
        reading.add(kind, "annotations", position, what, hint)

    category = reading.id_of(entry, "category_id", "annotations", position)
    if category is None:
        return None
    label = labels.get(category)
    if label is None:
        allowed = reading.options.classes
        hint = f"The classes are {', '.join(allowed[:20])}." if allowed else "List it under categories."
        problem("unknown class", f"the category {category} is unknown", hint)
        return None
    given = entry.get("bbox")
    if not isinstance(given, list) or len(given) != 4 or not all(map(_is_number, given)):
        problem("wrong type", f"its bbox is {_shown(given)}, not [x, y, width, height]")
        return None
    x, y, width, height = map(float, given)
    where = f"{reading.file}, annotations[{position}]"
    found = Problems()
    edges = checked_edges((x, y, x + width, y + height), *size, reading.options.outside, where, found)
    reading.problems.left_out += found.left_out
    for fault in found.found:
        problem(fault.kind, fault.what, fault.hint)
    if edges is None:
        return None
    mask = entry.get("segmentation")
    if not mask and reading.options.masks:
        problem("missing mask", "it has no segmentation", "Data sets for detection alone are of object_detection.")
        return None
    outline = _mask(mask, size) if mask else None
    if isinstance(outline, str):
        problem("bad mask", outline)
        return None
    attributes = entry.get("attributes")
    extras = _attributes(attributes if isinstance(attributes, dict) else {})
    if isinstance(extras, str):
        problem("out of range", extras)
        return None
    area, score = entry.get("area"), entry.get("score")
    for name, value in (("area", area), ("score", score)):
        if value is not None and (not _is_number(value) or not math.isfinite(value) or value < 0):
            problem("not a number", f"its {name} is {_shown(value)}")
            return None
    own = (edges[2] - edges[0]) * (edges[3] - edges[1])
    reading.unknown_keys |= entry.keys() - _KNOWN_KEYS
    return Box(
        x1=edges[0],
        y1=edges[1],
        x2=edges[2],
        y2=edges[3],
        label=label,
        crowd=bool(entry.get("iscrowd")),
        area=None if area is None or math.isclose(area, own, rel_tol=1e-6, abs_tol=1e-6) else float(area),
        mask=outline,
        score=None if score is None else float(score),
        id=entry.get("id"),
        difficult=extras.difficult,
        truncated=extras.truncated,
        occluded=extras.occluded,
        pose=extras.pose,
        kitti_3d=extras.kitti_3d,
    )


@dataclass(frozen=True, slots=True)
class _Extras:
    truncated: float
    occluded: int
    difficult: bool
    pose: str
    kitti_3d: tuple[str, ...]


def _attributes(given: dict[str, Any]) -> _Extras | str:
    """Return what other formats know, or what is wrong with it."""
    truncated, occluded = given.get("truncated", 0), given.get("occluded", 0)
    pose, columns = given.get("pose", ""), given.get("kitti", [])
    if not isinstance(truncated, int | float) or not (0 <= truncated <= 1 or truncated == -1):
        return f"its truncated is {_shown(truncated)}, not 0 to 1 or -1"
    if not isinstance(occluded, int | float) or occluded not in {-1, 0, 1, 2, 3}:
        return f"its occluded is {_shown(occluded)}, not 0, 1, 2, 3 or -1"
    if not isinstance(pose, str) or not pose.isprintable():
        return f"its pose is {_shown(pose)}"
    is_text = isinstance(columns, list) and all(isinstance(c, str) and c.isprintable() and c.split() for c in columns)
    if not is_text or len(columns) not in {0, _KITTI_COLUMNS}:
        return f"its kitti is {_shown(columns)}, not {_KITTI_COLUMNS} columns"
    return _Extras(float(truncated), int(occluded), bool(given.get("difficult")), pose.strip(), tuple(columns))


def _mask(given: Any, size: Size) -> Polygons | RunLengths | str:
    """Return the mask, or what is wrong with it."""
    if isinstance(given, list):
        for part in given:
            if not isinstance(part, list) or len(part) < 6 or len(part) % 2 or not all(map(_is_number, part)):
                return "a polygon of its segmentation is not a list of x, y, x, y, ... of three points at least"
            if not all(map(math.isfinite, part)):
                return "a polygon of its segmentation has points that are no finite numbers"
        return Polygons(tuple(tuple(map(float, part)) for part in given))
    if not isinstance(given, dict):
        return "its segmentation is neither polygons nor run lengths"
    counts = given.get("counts")
    own = given.get("size")
    if size == ANY_SIZE and isinstance(own, list) and len(own) == 2 and all(isinstance(n, int) and n > 0 for n in own):
        size = own[1], own[0]
    if own != [size[1], size[0]]:
        return f"its mask has the size {_shown(own)}, not [{size[1]}, {size[0]}]"
    if isinstance(counts, str) and counts:
        return RunLengths(size[1], size[0], counts)
    if (
        isinstance(counts, list)
        and all(isinstance(n, int) and n >= 0 for n in counts)
        and sum(counts) == math.prod(size)
    ):
        return RunLengths(size[1], size[0], tuple(map(int, counts)))
    return "the run lengths of its mask do not add up to the picture"


def _is_number(value: object) -> bool:
    # why the bound: JSON knows integers that no float can hold.
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def write_coco(boxes: BoxSet, folder: Path) -> None:
    """Write `annotations.json` into `folder`: one image, box or category a line, so that errors name its line.

    Ids are kept when all pictures (boxes, classes) have one of their own; else they are counted from 1.
    """
    pictures = boxes.pictures
    image_ids = _kept_ids([picture.id for picture in pictures])
    box_ids = iter(_kept_ids([box.id for picture in pictures for box in picture.boxes]))
    class_ids = _kept_ids([c.id for c in boxes.classes])
    categories: list[dict[str, Any]] = [
        {"id": i, "name": c.name, "supercategory": c.supercategory}
        for i, c in zip(class_ids, boxes.classes, strict=True)
    ]
    if any(box.label == DONT_CARE for picture in pictures for box in picture.boxes):
        class_ids = [*class_ids, max(class_ids, default=0) + 1]
        categories.append({"id": class_ids[DONT_CARE], "name": DONT_CARE_NAME, "supercategory": ""})
    images = (
        {"id": i, "file_name": str(picture.name), "width": picture.width, "height": picture.height}
        for i, picture in zip(image_ids, pictures, strict=True)
    )
    annotations = (
        {"id": next(box_ids), "image_id": i, "category_id": class_ids[box.label], **_annotation(box)}
        for i, picture in zip(image_ids, pictures, strict=True)
        for box in picture.boxes
    )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ANNOTATIONS_FILE).open("w", encoding="utf-8") as stream:
        opening = "{"
        for key, entries in (("images", images), ("annotations", annotations), ("categories", iter(categories))):
            stream.write(f'{opening}\n"{key}": [')
            for number, entry in enumerate(entries):
                stream.write((",\n" if number else "\n") + json.dumps(entry, ensure_ascii=False))
            stream.write("\n]")
            opening = ","
        stream.write("\n}\n")


def _kept_ids(ids: Sequence[int | None]) -> list[int]:
    kept = [i for i in ids if i is not None]
    return kept if len(kept) == len(ids) == len(set(kept)) else list(range(1, len(ids) + 1))


def _annotation(box: Box) -> dict[str, Any]:
    width, height = box.width, box.height
    entry: dict[str, Any] = {
        "bbox": [_number(value) for value in (box.x1, box.y1, width, height)],
        "area": _number(to_pixels(width * height) if box.area is None else box.area),
        "iscrowd": int(box.crowd),
    }
    if isinstance(box.mask, Polygons):
        entry["segmentation"] = [[_number(value) for value in part] for part in box.mask.parts]
    elif box.mask is not None:
        counts = box.mask.counts if isinstance(box.mask.counts, str) else list(box.mask.counts)
        entry["segmentation"] = {"size": [box.mask.height, box.mask.width], "counts": counts}
    attributes: dict[str, Any] = {
        "truncated": _number(box.truncated),
        "occluded": box.occluded,
        "difficult": box.difficult,
        "pose": box.pose,
        "kitti": list(box.kitti_3d),
    }
    if told := {name: value for name, value in attributes.items() if value}:
        entry["attributes"] = told
    if box.score is not None:
        entry["score"] = box.score
    return entry


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value

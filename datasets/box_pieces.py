"""Detection sets that arrive in pieces: pictures and annotations in any order, in one archive or in several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from .archive import is_archive_name
from .box_checks import Outside
from .box_folder import ReadOptions, by_stem
from .box_formats import FORMATS, LABELLED, BoxFormat, read_boxes
from .boxes import DONT_CARE, BoxSet
from .folder import FolderContent, read_folder
from .image_folder import CLASSES_FILE, is_for_people, is_image, listing, parse_class_list
from .manifest import PlacedFile, RawFile, RawManifest
from .unlabelled import LABEL_MAP


def read_box_piece(root: Path, format: str, *, masks: bool = False) -> dict[PurePosixPath, PlacedFile]:
    """Check the piece of a set below `root` and return its files.

    Every picture is decoded and every annotation is read; boxes are compared with their picture when both are here.
    Boxes that leave it are for the convert action to refuse or to cut off. With `masks`, all of them have one.

    Raises:
        DatasetError: files that do not belong there, or the first ten of all problems with file and line.
    """
    kind, content = FORMATS[format], read_folder(root)
    places = kind.place(content)
    _refuse_strays(content, places, kind, format)
    found = read_boxes(root, format, ReadOptions(outside=Outside.CLIP, decode=True, masks=masks, partial=True))
    counts = _counts_by_stem(found)
    pieces = {}
    for source, target in places.items():
        boxes, pictures = None, None
        if kind.labels_folder is not None and target.parts[0] == kind.labels_folder:
            boxes = counts.get(_stem(target), {})
        elif str(target) == kind.annotations_file:
            boxes, pictures = found.class_counts(), [str(picture.name) for picture in found.pictures]
        pieces[source] = PlacedFile(target, boxes=boxes, pictures=pictures)
    return pieces


def count_boxes(format: str, files: Mapping[str, RawFile], read: Callable[[str], bytes]) -> dict[str, int]:
    """Return how many boxes of each class a set of pieces has, in the order of the labels; `read` gives a file.

    Raises:
        DatasetError: the pieces contradict each other.
    """
    kind = FORMATS[format]
    if kind.labels_folder is None:
        annotations = files.get(kind.annotations_file or "")
        return {} if annotations is None else dict(annotations.boxes or {})
    by_stem({name: name for path in map(PurePosixPath, files) if (name := _picture_name(path, kind)) is not None})
    counts: Counter[str] = Counter()
    for file in files.values():
        counts.update(file.boxes or {})
    if CLASSES_FILE not in files:
        return dict(sorted(counts.items()))
    listed = parse_class_list(read(CLASSES_FILE), CLASSES_FILE)
    for path, file in files.items():
        if unlisted := [name for name in file.boxes or {} if name not in listed]:
            raise DatasetError(
                f"{path} has boxes of the class {unlisted[0]!r}, which is not in {CLASSES_FILE}.",
                hint="Every piece of a data set goes with one list of all its classes.",
            )
    return {name: counts[name] for name in listed}


def require_boxes(manifest: RawManifest) -> None:
    """Raise `DatasetError` when a set has no boxes, or is not complete."""
    kind = FORMATS[manifest.format]
    paths = [PurePosixPath(file.path) for file in manifest.files]
    pictures = {name: path for path in paths if (name := _picture_name(path, kind)) is not None}
    if manifest.format not in LABELLED:
        raise DatasetError(
            f"A data set of the format {manifest.format} has no boxes to learn from.",
            hint=f"Train on one of the formats {', '.join(LABELLED)}.",
        )
    if not pictures:
        raise DatasetError("There is no picture in the data set.", hint=kind.layout)
    if kind.labels_folder is not None:
        labels = {_stem(path): path for path in paths if path.parts[0] == kind.labels_folder}
        stems = {name.with_suffix(""): path for name, path in pictures.items()}
        _refuse_alone("label file", [path for stem, path in stems.items() if stem not in labels], kind)
        _refuse_alone("picture", [path for stem, path in labels.items() if stem not in stems], kind)
    else:
        annotations = next((file for file in manifest.files if file.path == kind.annotations_file), None)
        if annotations is None:
            raise DatasetError(f"There is no {kind.annotations_file}.", hint=kind.layout)
        there = {str(name) for name in pictures} | {str(path) for path in pictures.values()}
        missing = [name for name in annotations.pictures or [] if name not in there]
        if missing:
            raise DatasetError(
                f"{kind.annotations_file} names pictures that are not there: {listing(missing)}.",
                hint="Send them as well, or take them out of the file.",
            )
    if not sum(manifest.classes.values()):
        raise DatasetError("There is no box in the data set to learn from.", hint="Send annotations with boxes.")


def _refuse_alone(what: str, alone: list[PurePosixPath], kind: BoxFormat) -> None:
    if alone:
        raise DatasetError(f"There is no {what} for {listing(sorted(alone))}.", hint=kind.layout)


def _refuse_strays(
    content: FolderContent, places: Mapping[PurePosixPath, PurePosixPath], kind: BoxFormat, format: str
) -> None:
    strays = [
        path
        for path in content.files
        if path not in places and not is_for_people(path) and path.name.lower() not in (CLASSES_FILE, LABEL_MAP)
    ]
    if archives := [path for path in strays if is_archive_name(path.name)]:
        raise DatasetError(f"{archives[0]} is an archive inside the data set.", hint="Pack its files themselves.")
    if strays:
        pictures = [path for path in strays if is_image(path)]
        raise DatasetError(
            f"These files have no place in a data set of the format {format}: {listing(pictures or strays)}. "
            f"{content.seen()}",
            hint=kind.layout,
        )


def _picture_name(path: PurePosixPath, kind: BoxFormat) -> PurePosixPath | None:
    return path.relative_to(kind.images_folder) if path.parts[0] == kind.images_folder else None


def _stem(label_file: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(*label_file.parts[1:]).with_suffix("")


def _counts_by_stem(boxes: BoxSet) -> dict[PurePosixPath, dict[str, int]]:
    names = boxes.class_names
    return {
        # why: the name of a picture that is not here has no suffix, and may have a dot.
        picture.name.with_suffix("") if picture.width else picture.name: dict(
            Counter(names[box.label] for box in picture.boxes if box.label != DONT_CARE)
        )
        for picture in boxes.pictures
    }

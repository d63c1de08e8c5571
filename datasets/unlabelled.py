"""Pictures without annotations: formats `raw` and `coco_raw`, the latter with the names of the classes.

raw         <anything>/<image>
coco_raw    [any/folders/]images/...
            [any/folders/]label_map.txt      a class a line: `person`, or `1: 'person'`
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ..schemas.errors import DatasetError
from .box_folder import ReadOptions, has_folder, list_pictures, measure, one_folder, read_text
from .boxes import BoxClass, BoxSet, Picture, normal_class_name
from .folder import FolderContent
from .problems import Problems

LABEL_MAP = "label_map.txt"
LAYOUT = f"Put pictures into `images/` and `{LABEL_MAP}` beside that folder."

_IMAGES = frozenset({"images"})
_NUMBERED = re.compile(r"(?P<id>\d{1,9})\s*[:=]\s*(?P<name>.+)")
_MAX_BYTES = 2**20


def read_raw(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return all pictures below the root, without classes."""
    return _pictures(content, PurePosixPath(), (), options, problems)


def read_coco_raw(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return the pictures in `images` and the classes of the label map.

    Raises:
        DatasetError: the layout is not that of `coco_raw`.
    """
    may_lack = options.partial and not has_folder(content, _IMAGES)
    images = None if may_lack else one_folder(content, _IMAGES, LAYOUT)
    file = _find_label_map(content, images)
    if file is None and (images is None or not options.partial):
        raise DatasetError(f"There is no {LABEL_MAP}. {content.seen()}", hint=LAYOUT)
    classes = () if file is None else _read_label_map(content, file, problems)
    if images is None:
        return BoxSet(root=content.root, pictures=(), classes=classes)
    return _pictures(content, images, classes, options, problems)


def place_raw(content: FolderContent) -> dict[PurePosixPath, PurePosixPath]:
    """Return where the files of a piece belong in the whole set: where they are."""
    return {path: path for path in list_pictures(content, PurePosixPath()).values()}


def place_coco_raw(content: FolderContent) -> dict[PurePosixPath, PurePosixPath]:
    """Return where the files of a piece belong in a set without leading folders."""
    images = one_folder(content, _IMAGES, LAYOUT) if has_folder(content, _IMAGES) else None
    pictures = {} if images is None else list_pictures(content, images)
    places = {path: PurePosixPath("images", name) for name, path in pictures.items()}
    file = _find_label_map(content, images)
    return places if file is None else places | {file: PurePosixPath(LABEL_MAP)}


def _find_label_map(content: FolderContent, images: PurePosixPath | None) -> PurePosixPath | None:
    """Return the label map beside the folder of the images; without such a folder, the uppermost one."""
    found = [path for path in content.files if path.name == LABEL_MAP]
    if images is not None:
        return next((path for path in found if path.parent == images.parent), None)
    return min(found, key=lambda path: len(path.parts), default=None)


def _read_label_map(content: FolderContent, file: PurePosixPath, problems: Problems) -> tuple[BoxClass, ...]:
    classes: dict[str, BoxClass] = {}
    for number, line in enumerate((read_text(content, file, _MAX_BYTES, problems) or "").splitlines(), start=1):
        if not line.strip():
            continue
        numbered = _NUMBERED.fullmatch(line.strip())
        name = normal_class_name((numbered["name"] if numbered else line).strip().strip("'\""))
        if name is None:
            problems.add("bad class name", f"{file}, line {number}", "it names no class", "Write one class a line.")
        elif name in classes:
            problems.add("duplicate class", f"{file}, line {number}", f"the class {name!r} is there twice")
        else:
            classes[name] = BoxClass(name=name, id=int(numbered["id"]) if numbered else None)
    return tuple(classes.values())


def _pictures(
    content: FolderContent,
    folder: PurePosixPath,
    classes: tuple[BoxClass, ...],
    options: ReadOptions,
    problems: Problems,
) -> BoxSet:
    files = list_pictures(content, folder)
    sizes = measure(content, files.values(), options, problems)
    pictures = [
        Picture(path=path, name=name, width=sizes[path][0], height=sizes[path][1])
        for name, path in files.items()
        if path in sizes
    ]
    return BoxSet(root=content.root, pictures=tuple(pictures), classes=classes)

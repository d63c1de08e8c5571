"""Pictures without annotations: formats `raw` and `coco_raw`, the latter with the names of the classes.

raw         <anything>/<image>
coco_raw    [any/folders/]images/...
            [any/folders/]label_map.txt      a class a line: `person`, or `1: 'person'`
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from ..schemas.errors import DatasetError
from .box_folder import ReadOptions, list_pictures, measure, one_folder, read_text
from .boxes import BoxClass, BoxSet, Picture, normal_class_name
from .folder import FolderContent
from .problems import Problems

LABEL_MAP = "label_map.txt"
LAYOUT = f"Put pictures into `images/` and `{LABEL_MAP}` beside that folder."

_NUMBERED = re.compile(r"(?P<id>\d{1,9})\s*[:=]\s*(?P<name>.+)")
_MAX_BYTES = 2**20


def read_raw(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return all pictures below the root, without classes."""
    return _pictures(content, PurePosixPath(), (), options, problems)


def read_coco_raw(content: FolderContent, options: ReadOptions, problems: Problems) -> BoxSet:
    """Return the pictures in `images` and the classes of the label map, if there is one.

    Raises:
        DatasetError: the layout is not that of `coco_raw`.
    """
    images = one_folder(content, {"images"}, LAYOUT)
    file = images.parent / LABEL_MAP
    if file not in content.files:
        raise DatasetError(f"There is no {file}. {content.seen()}", hint=LAYOUT)
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
    return _pictures(content, images, tuple(classes.values()), options, problems)


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

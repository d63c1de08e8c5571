"""Image sets for classification as folders: one folder per class, or images alone (`raw`).

[any/folders/]images*/<class>/<image>    formats default, classification_pyt, classification_tf2, custom
[any/folders/]<class>/<image>            the same, without an `images*` folder
[any/folders/]classes.txt                optional: one class a line, in the order of the labels
[any/folders/]images*/<image>            format custom, with a table of labels beside it: see `task_labels`
<anything>/<image>                       format raw
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from .archive import is_archive_name
from .folder import FolderContent, read_folder
from .images import IMAGE_SUFFIXES, MAX_FILE_BYTES, image_size
from .mask_classes import ValueClass
from .parallel import map_in_order
from .task_labels import TABLE_NAMES

RAW, CUSTOM = "raw", "custom"
LABELLED = ("default", "classification_pyt", "classification_tf2", CUSTOM)
FORMATS = (*LABELLED, RAW)

#: Label of an image of a raw set.
UNLABELLED = -1

CLASSES_FILE = "classes.txt"
#: Files that people put beside their images and that nobody needs to read.
_KNOWN_STEMS = frozenset({"readme", "license", "licence", "copying", "notice", "changelog"})
_KNOWN_NAMES = frozenset({CLASSES_FILE, *TABLE_NAMES})

_LAYOUT = (
    "Put the images into `images/<class>/`, one folder for each class, with an optional `classes.txt` beside `images`."
)


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """`path` is below the root of the set; `label` counts into the classes of the set."""

    path: PurePosixPath
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """The images of a folder, sorted by path, and their classes."""

    root: Path
    images: tuple[LabelledImage, ...]
    classes: tuple[str, ...]
    masks: tuple[PurePosixPath, ...] = ()
    """The mask of each image, in a set that has them."""
    listed: tuple[ValueClass, ...] | None = None
    """The classes of the masks, where the set says so."""
    is_tabled: bool = False
    """The labels are in `tables`, which one piece of a set may lack."""
    tables: tuple[PurePosixPath, ...] = ()

    def class_counts(self) -> dict[str, int]:
        """Return how many images each class has, in the order of the labels."""
        counts = Counter(image.label for image in self.images)
        return {name: counts[label] for label, name in enumerate(self.classes)}


@dataclass(frozen=True, slots=True)
class LayoutReport:
    """What a check found: the number of images, in all and per class (no classes for `raw`)."""

    count: int
    classes: dict[str, int]


def check_layout(root: Path, format: str, *, for_training: bool = False) -> LayoutReport:
    """Return what the image set below `root` holds; every image of it has been decoded.

    `for_training` asks for two classes at least. Leave it off for one of several pieces of a set,
    which may well hold a single class.

    Raises:
        DatasetError: the layout is not that of `format` or an image does not decode.
    """
    found = scan_images(root, format)
    if for_training:
        require_two_classes(found.class_counts())

    def problem(image: LabelledImage) -> DatasetError | None:
        try:
            image_size(read_image(root, image.path), str(image.path))
        except DatasetError as error:
            return error
        return None

    broken = [error for error in map_in_order(problem, found.images) if error]
    if broken:
        more = f" In all {len(broken)} of the {len(found.images)} images are broken." if len(broken) > 1 else ""
        raise DatasetError(broken[0].message + more, hint=broken[0].hint)
    return LayoutReport(len(found.images), found.class_counts())


def require_two_classes(counts: dict[str, int]) -> None:
    """Raise `DatasetError` when fewer than two classes have images."""
    present = [name for name, count in counts.items() if count]
    if len(present) < 2:
        found = f"only {present[0]!r}" if present else "none"
        raise DatasetError(f"A classifier needs at least two classes, found {found}.", hint=_LAYOUT)


def read_image(root: Path, path: PurePosixPath) -> bytes:
    """Return the bytes of an image file; `DatasetError` when it is empty or too large."""
    file = root / path
    size_bytes = file.stat().st_size
    if size_bytes == 0:
        raise DatasetError(f"{path} is empty.", hint="Send the file again or leave it out.")
    if size_bytes > MAX_FILE_BYTES:
        raise DatasetError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MiB.", hint="Scale the image down.")
    return file.read_bytes()


def canonical_paths(root: Path, format: str) -> dict[PurePosixPath, PurePosixPath]:
    """Return where each file that counts belongs in a set without leading folders.

    Pieces of one set, whatever their leading folders, merge by it: images into
    `images/<class>/<name>` or `images/<name>`, the class list into `classes.txt`, tables beside it; for `raw`
    nothing moves.

    Raises:
        DatasetError: as `scan_images`.
    """
    found = scan_images(root, format)
    images = [image.path for image in found.images]
    if format == RAW:
        return {path: path for path in images}
    if found.is_tabled:
        tables = {path: PurePosixPath(path.name.lower()) for path in found.tables}
        return {path: PurePosixPath("images", path.name) for path in images} | tables
    moved = {path: PurePosixPath("images", *path.parts[-2:]) for path in images}
    lists = [path for path in read_folder(root).files if path.name.lower() == CLASSES_FILE]
    return moved | {path: PurePosixPath(CLASSES_FILE) for path in lists}


def scan_images(root: Path, format: str) -> ImageSet:
    """Return the images below `root` by their names alone; nothing is opened but `classes.txt`.

    Raises:
        DatasetError: as `check_layout`, but for the content of the images.
    """
    content = _content(root, format)
    if format == RAW:
        found = _scan_raw(content)
    elif format == CUSTOM and _is_flat(content):
        found = _scan_flat(content)
    else:
        found = _scan_labelled(content)
    if not found.images:
        raise DatasetError(f"There is no image in the data set. {content.seen()}", hint=_images_hint(format))
    return found


def _content(root: Path, format: str) -> FolderContent:
    if format not in FORMATS:
        raise DatasetError(
            f"The format {format!r} does not go with image_classification.", hint=f"Use one of {', '.join(FORMATS)}."
        )
    if not root.is_dir():
        raise DatasetError("The data set has no files.", hint="Upload an archive first.")
    return read_folder(root)


def _images_hint(format: str) -> str:
    return f"Send files that end in {', '.join(sorted(IMAGE_SUFFIXES))}." if format == RAW else _LAYOUT


def _scan_raw(content: FolderContent) -> ImageSet:
    images = [LabelledImage(path, UNLABELLED) for path in content.files if is_image(path)]
    refuse_unknown([path for path in content.files if not is_image(path)], content)
    return ImageSet(root=content.root, images=tuple(images), classes=())


def _is_flat(content: FolderContent) -> bool:
    """Tell whether the images lie side by side and not in class folders."""
    parents = {path.parent for path in content.files if is_image(path)}
    if len(parents) != 1:
        return False
    (parent,) = parents
    has_images_folder = any(map(_is_images_folder, content.folders))
    return not parent.parts or _is_images_folder(parent) or (bool(_tables(content)) and not has_images_folder)


def _tables(content: FolderContent) -> tuple[PurePosixPath, ...]:
    return tuple(path for path in content.files if path.name.lower() in TABLE_NAMES)


def _scan_flat(content: FolderContent) -> ImageSet:
    return replace(_scan_raw(content), is_tabled=True, tables=_tables(content))


def _scan_labelled(content: FolderContent) -> ImageSet:
    base = _class_parent(content)
    depth = len(base.parts)
    folders = [path for path in content.folders if path.parent == base]
    names = {path: unicodedata.normalize("NFC", path.name) for path in folders}
    images, misplaced, unknown = [], [], []
    for path in content.files:
        if not is_image(path):
            unknown.append(path)
        elif len(path.parts) == depth + 2 and path.parent.parent == base:
            images.append(path)
        else:
            misplaced.append(path)
    refuse_unknown(unknown, content)
    if misplaced:
        raise DatasetError(f"In no class folder: {listing(misplaced)}. {content.seen()}", hint=_LAYOUT)
    classes = _classes(content, base, folders, names)
    labels = {name: label for label, name in enumerate(classes)}
    return ImageSet(
        root=content.root,
        images=tuple(LabelledImage(path, labels[names[path.parent]]) for path in images),
        classes=tuple(classes),
    )


def _classes(
    content: FolderContent, base: PurePosixPath, folders: list[PurePosixPath], names: dict[PurePosixPath, str]
) -> list[str]:
    """Return the classes in the order of their labels: that of `classes.txt`, else by name."""
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise DatasetError(f"Two class folders have the same name {twice[0]!r}.", hint="Merge or rename them.")
    filled = {path.parent for path in content.files}
    empty = [folder for folder in folders if folder not in filled]
    if empty and len(empty) < len(folders):
        raise DatasetError(f"The class folder {empty[0]} holds no image.", hint="Fill it or leave it out.")
    files = [path for path in content.files if path.name.lower() == CLASSES_FILE]
    for file in files:
        if file.parent != base and file.parent not in base.parents:
            raise DatasetError(f"{file} lies inside a class.", hint="Put `classes.txt` beside `images`.")
    if len(files) > 1:
        raise DatasetError(f"There are two class lists, {files[0]} and {files[1]}.", hint="Keep one of them.")
    if not files:
        return sorted(names.values())
    listed = read_class_list(content.root, files[0])
    missing = sorted(set(names.values()) - set(listed))
    if missing:
        raise DatasetError(
            f"The class folder {missing[0]!r} is not in {files[0]}, which lists {listing(listed)}.",
            hint="Add the class to the list or leave its folder out.",
        )
    return listed


def read_class_list(root: Path, file: PurePosixPath) -> list[str]:
    """Return the classes that a text file lists, one a line; `DatasetError` with the line of one named twice."""
    with (root / file).open("rb") as stream:
        return parse_class_list(stream.read(2**20 + 1), str(file))


def parse_class_list(content: bytes, file: str) -> list[str]:
    """As `read_class_list`, for the content of `file`."""
    if len(content) > 2**20:
        raise DatasetError(f"{file} is larger than 1 MiB.", hint="Write one class a line.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 text.", hint="Save it as UTF-8, one class a line.") from error
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = unicodedata.normalize("NFC", line.strip())
        if not name:
            continue
        if name in first_line:
            raise DatasetError(
                f"{file}, line {number}: the class {name!r} is already in line {first_line[name]}.",
                hint="Name each class once.",
            )
        first_line[name] = number
    if not first_line:
        raise DatasetError(f"{file} lists no class.", hint="Write one class a line, or leave the file out.")
    return list(first_line)


def _class_parent(content: FolderContent) -> PurePosixPath:
    """Return the folder whose folders are the classes."""
    candidates = [path for path in content.folders if _is_images_folder(path)]
    if candidates:
        top = min(len(path.parts) for path in candidates)
        shallowest = [path for path in candidates if len(path.parts) == top]
        if len(shallowest) > 1:
            raise DatasetError(
                f"There must be one `images` folder, found {len(shallowest)}: {listing(shallowest)}.",
                hint="Send training and evaluation images as data sets of their own.",
            )
        return shallowest[0]
    with_images = {path.parent for path in content.files if is_image(path)}
    base = PurePosixPath()
    while True:
        inner = [path for path in content.folders if path.parent == base]
        if len(inner) != 1 or base in with_images or inner[0] in with_images:
            return base
        if not any(path.parent == inner[0] for path in content.folders):
            return base
        base = inner[0]


def _is_images_folder(path: PurePosixPath) -> bool:
    return path.name.lower().startswith("images")


def is_image(path: PurePosixPath) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_for_people(path: PurePosixPath) -> bool:
    """Tell whether a file is a README, a licence or the like."""
    return path.stem.lower() in _KNOWN_STEMS


def refuse_unknown(others: list[PurePosixPath], content: FolderContent) -> None:
    unknown = [p for p in others if p.name.lower() not in _KNOWN_NAMES and not is_for_people(p)]
    if not unknown:
        return
    archives = [path for path in unknown if is_archive_name(path.name)]
    if archives:
        raise DatasetError(
            f"{archives[0]} is an archive inside the data set.", hint="Unpack it and pack the images themselves."
        )
    raise DatasetError(
        f"Not of a kind that belongs into an image set: {listing(unknown)}. {content.seen()}",
        hint=f"Leave out what is no image. Images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
    )


def listing(names: Sequence[object], limit: int = 5) -> str:
    shown = ", ".join(map(str, names[:limit]))
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

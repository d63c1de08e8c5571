"""What the readers of all box formats share: find the folders, list and measure the pictures, name the classes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..schemas.errors import DatasetError
from .box_checks import Outside
from .boxes import DONT_CARE, Box, BoxClass, BoxSet, Picture, is_dont_care, normal_class_name
from .folder import FolderContent
from .image_folder import CLASSES_FILE, read_class_list, read_image
from .images import IMAGE_SUFFIXES, header_size, image_size
from .parallel import map_in_order
from .problems import Problems

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How a set is read."""

    outside: Outside = Outside.REFUSE
    classes: tuple[str, ...] | None = None
    """The only classes there may be, in the order of their labels; None for those that the set names."""
    decode: bool = False
    """Whether every picture is decoded to its last pixel, rather than just measured."""
    masks: bool = False
    """Whether every object must have a mask."""
    partial: bool = False
    """Whether this is one piece of a set, where pictures may lack annotations and these may lack pictures.

    What is annotated in the piece but not in it is a `Picture` of 0 x 0 pixels.
    """


def has_folder(content: FolderContent, names: Collection[str]) -> bool:
    """Tell whether there is a folder with one of `names` (lower case)."""
    return any(path.name.lower() in names for path in content.folders)


def one_folder(content: FolderContent, names: Collection[str], layout: str) -> PurePosixPath:
    """Return the uppermost folder with one of `names` (lower case).

    Raises:
        DatasetError: there is none, or there are two as high as each other; `layout` is the hint.
    """
    found = [path for path in content.folders if path.name.lower() in names]
    wanted = " or ".join(f"`{name}`" for name in sorted(names))
    if not found:
        raise DatasetError(f"There is no folder {wanted}. {content.seen()}", hint=layout)
    top = min(len(path.parts) for path in found)
    highest = [path for path in found if len(path.parts) == top]
    if len(highest) > 1:
        raise DatasetError(
            f"There must be one folder {wanted}, found {', '.join(map(str, highest[:5]))}.",
            hint="Send training and evaluation pictures as data sets of their own.",
        )
    return highest[0]


def pair_folders(
    content: FolderContent, images: Collection[str], labels: Collection[str], layout: str, *, partial: bool
) -> tuple[PurePosixPath | None, PurePosixPath | None]:
    """Return the folders of the pictures and of their label files; in a piece of a set one may be missing.

    Raises:
        DatasetError: as `one_folder`.
    """
    if partial and not has_folder(content, images):
        return None, one_folder(content, labels, layout)
    if partial and not has_folder(content, labels):
        return one_folder(content, images, layout), None
    return one_folder(content, images, layout), one_folder(content, labels, layout)


def list_label_files(
    content: FolderContent, folder: PurePosixPath | None, suffix: str
) -> dict[PurePosixPath, PurePosixPath]:
    """Return the label files below `folder` by their stem, which is that of their picture; none without a folder."""
    return {
        path.relative_to(folder).with_suffix(""): path
        for path in content.files
        if folder is not None and folder in path.parents and path.suffix.lower() == suffix
    }


def list_pictures(
    content: FolderContent, folder: PurePosixPath, *, required: bool = True
) -> dict[PurePosixPath, PurePosixPath]:
    """Return the image files below `folder` by name (the path below `folder`), sorted.

    Raises:
        DatasetError: there is none where one is `required`.
    """
    found = {
        path.relative_to(folder): path
        for path in content.files
        if folder in path.parents and path.suffix.lower() in IMAGE_SUFFIXES
    }
    if not found and required:
        raise DatasetError(
            f"There is no image in {folder}/. {content.seen()}",
            hint=f"Images end in {', '.join(sorted(IMAGE_SUFFIXES))}.",
        )
    return found


def place_pairs(
    content: FolderContent,
    images: PurePosixPath | None,
    labels: PurePosixPath | None,
    targets: tuple[str, str],
    suffix: str,
) -> dict[PurePosixPath, PurePosixPath]:
    """Return where pictures, label files and class list of a piece belong in a set with the folders `targets`."""
    pictures = {} if images is None else list_pictures(content, images)
    places = {path: PurePosixPath(targets[0], name) for name, path in pictures.items()}
    for stem, path in list_label_files(content, labels, suffix).items():
        places[path] = PurePosixPath(targets[1], f"{stem}{suffix}")
    file = _class_list(images or labels)
    return places | ({file: PurePosixPath(CLASSES_FILE)} if file in content.files else {})


def _class_list(beside: PurePosixPath | None) -> PurePosixPath:
    return (beside.parent if beside is not None else PurePosixPath()) / CLASSES_FILE


def by_stem(pictures: Mapping[PurePosixPath, PurePosixPath]) -> dict[PurePosixPath, PurePosixPath]:
    """Return picture names by their stem, for formats whose label files share it.

    Raises:
        DatasetError: two pictures would share one label file.
    """
    stems: dict[PurePosixPath, PurePosixPath] = {}
    for name in pictures:
        stem = name.with_suffix("")
        if stem in stems:
            raise DatasetError(
                f"The pictures {stems[stem]} and {name} would share one label file.", hint="Rename one of them."
            )
        stems[stem] = name
    return stems


def measure(
    content: FolderContent, paths: Iterable[PurePosixPath], options: ReadOptions, problems: Problems
) -> dict[PurePosixPath, Size]:
    """Return width and height of every picture that can be read; the others become problems."""

    def size_of(path: PurePosixPath) -> tuple[PurePosixPath, Size | DatasetError]:
        try:
            if options.decode:
                return path, image_size(read_image(content.root, path), str(path))
            return path, header_size(content.root / path, str(path))
        except DatasetError as error:
            return path, error

    sizes: dict[PurePosixPath, Size] = {}
    for path, size in map_in_order(size_of, paths):
        if isinstance(size, DatasetError):
            what = size.message.removeprefix(f"{path} ").rstrip(".")
            problems.add("unreadable picture", str(path), what, size.hint)
        else:
            sizes[path] = size
    return sizes


def read_text(content: FolderContent, path: PurePosixPath, max_bytes: int, problems: Problems) -> str | None:
    """Return the text of an annotation file; None when it is too large or no UTF-8, which becomes a problem."""
    with (content.root / path).open("rb") as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        problems.add("file too large", str(path), f"it is larger than {max_bytes // 2**20} MiB", "Split it.")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        problems.add("not UTF-8", f"{path}, line {line}", "it is not UTF-8 text", "Save it as UTF-8.")
        return None


@dataclass(slots=True)
class ClassNames:
    """Gives labels to class names in the order in which they turn up, and sorts them in the end."""

    allowed: tuple[str, ...] | None = None
    _labels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._labels = {name: label for label, name in enumerate(self.allowed or ())}

    def label(self, raw: str, where: str, problems: Problems) -> int | None:
        """Return the label for now, DONT_CARE, or None for a name that is not allowed, which becomes a problem."""
        if (label := self._labels.get(raw)) is not None:
            return label
        name = normal_class_name(raw)
        if name is None:
            problems.add("bad class name", where, f"the class name {raw!a} is empty or does not print")
            return None
        if is_dont_care(name):
            return DONT_CARE
        if (label := self._labels.get(name)) is not None:
            return label
        if self.allowed is not None:
            listed = ", ".join(self.allowed[:20]) + (", ..." if len(self.allowed) > 20 else "")
            problems.add("unknown class", where, f"the class {name!r} is unknown", f"The classes are {listed}.")
            return None
        self._labels[name] = len(self._labels)
        return self._labels[name]

    def finish(self, pictures: Sequence[Picture]) -> tuple[tuple[Picture, ...], tuple[BoxClass, ...]]:
        """Return the pictures with the labels that stay, and the classes: as allowed, else sorted by name."""
        names = list(self.allowed) if self.allowed is not None else sorted(self._labels)
        classes = tuple(BoxClass(name=name) for name in names)
        final = {self._labels[name]: label for label, name in enumerate(names)} | {DONT_CARE: DONT_CARE}
        if all(old == new for old, new in final.items()):
            return tuple(pictures), classes

        def relabelled(box: Box) -> Box:
            return dataclasses.replace(box, label=final[box.label])

        return tuple(dataclasses.replace(p, boxes=tuple(map(relabelled, p.boxes))) for p in pictures), classes


def class_names(content: FolderContent, beside: PurePosixPath | None, options: ReadOptions) -> ClassNames:
    """Return the classes that the options or a `classes.txt` beside the folder `beside` allow; else any."""
    if options.classes is not None:
        return ClassNames(options.classes)
    file = _class_list(beside)
    return ClassNames(tuple(read_class_list(content.root, file)) if file in content.files else None)


def write_class_list(boxes: BoxSet, folder: Path) -> None:
    """Write `classes.txt`, which keeps the order of the labels; none where there are no classes."""
    if boxes.classes:
        (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in boxes.class_names), encoding="utf-8")


def common_notes(problems: Problems, pictures: Sequence[Picture]) -> list[str]:
    """Return the sentences that a user should read about any set."""
    notes = []
    if problems.left_out:
        notes.append(f"{problems.left_out} boxes without area in their picture were left out.")
    if empty := sum(not picture.boxes for picture in pictures):
        notes.append(f"{empty} of {len(pictures)} pictures have no box.")
    return notes


def duplicates(values: Iterable[object]) -> list[object]:
    """Return what occurs more than once, in order."""
    return [value for value, count in Counter(values).items() if count > 1]

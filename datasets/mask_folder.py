"""Image sets for semantic segmentation as folders: an image and the mask of the same name (format `unet`).

[any/folders/]images*/<anything>/<name>.<png, jpg, ...>
[any/folders/]masks*/<anything>/<name>.<png, bmp, ...>     below the same folders as its image
[any/folders/]classes.txt                                  optional, see `mask_classes`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..schemas.errors import DatasetError
from .folder import FolderContent, read_folder
from .image_folder import CLASSES_FILE, is_image, listing, read_image, refuse_unknown
from .images import image_size
from .mask_classes import MaskValues, ValueClass, classes_of_masks, read_class_list
from .masks import MASK_SUFFIXES, decode_mask, values_in
from .parallel import map_in_order

UNET = "unet"

IMAGES, MASKS = "images", "masks"

_LAYOUT = "Put images into `images/` and masks into `masks/`, the mask of `images/a.jpg` as `masks/a.png`."


#: Where a file is that lies below neither folder.
_NOWHERE: tuple[PurePosixPath | None, str] = (None, "")


class Pair(NamedTuple):
    """An image and its mask, below the root of the set."""

    image: PurePosixPath
    mask: PurePosixPath


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedSet:
    """The files of a set, or of a piece of one: images and masks by what is the same in both names."""

    root: Path
    images: dict[str, PurePosixPath]
    masks: dict[str, PurePosixPath]
    targets: dict[PurePosixPath, PurePosixPath]
    """Where each file belongs in a set without leading folders."""
    listed: list[ValueClass] | None
    """The classes of `classes.txt`."""

    @property
    def halves(self) -> list[Pair]:
        """The images that have a mask here, with their masks."""
        return [Pair(self.images[key], self.masks[key]) for key in sorted(self.images.keys() & self.masks.keys())]

    @property
    def pairs(self) -> list[Pair]:
        """All images with their masks, sorted by image.

        Raises:
            DatasetError: an image has no mask, or a mask no image.
        """
        require_pairs(self.images, self.masks)
        return sorted(self.halves)


def scan_masked(root: Path) -> MaskedSet:
    """Return what lies below `root` by names alone; nothing is opened but `classes.txt`.

    Raises:
        DatasetError: files that do not belong there, or two of one name.
    """
    if not root.is_dir():
        raise DatasetError("The data set has no files.", hint="Upload an archive first.")
    content = read_folder(root)
    bases = {kind: base for kind in (IMAGES, MASKS) if (base := _base(content, kind)) is not None}
    found: dict[str, dict[str, PurePosixPath]] = {IMAGES: {}, MASKS: {}}
    targets: dict[PurePosixPath, PurePosixPath] = {}
    others = []
    for path in content.files:
        # why the longest: somebody may put `masks` into `images`.
        base, kind = max(((base, kind) for kind, base in bases.items() if base in path.parents), default=_NOWHERE)
        if base is None or not is_image(path):
            others.append(path)
            continue
        below = path.relative_to(base)
        if kind == MASKS and path.suffix.lower() not in MASK_SUFFIXES:
            raise DatasetError(
                f"{path} is a mask in a format that changes its values or is not read here.",
                hint=f"Masks end in {', '.join(sorted(MASK_SUFFIXES))}.",
            )
        key = str(below.with_suffix(""))
        if key in found[kind]:
            raise DatasetError(f"{found[kind][key]} and {path} have the same name.", hint="Keep one of them.")
        found[kind][key] = path
        targets[path] = PurePosixPath(kind, below)
    lists = [path for path in others if path.name.lower() == CLASSES_FILE]
    if len(lists) > 1:
        raise DatasetError(f"There are two class lists, {lists[0]} and {lists[1]}.", hint="Keep one of them.")
    strays = [path for path in others if is_image(path)]
    if strays or not (targets or lists):
        what = (
            f"In neither `images` nor `masks`: {listing(strays)}." if strays else "There is no image in the data set."
        )
        raise DatasetError(f"{what} {content.seen()}", hint=_LAYOUT)
    refuse_unknown(others, content)
    return MaskedSet(
        root=root,
        images=found[IMAGES],
        masks=found[MASKS],
        targets=targets | {path: PurePosixPath(CLASSES_FILE) for path in lists},
        listed=read_class_list((root / lists[0]).read_bytes(), str(lists[0])) if lists else None,
    )


def require_pairs(images: dict[str, PurePosixPath], masks: dict[str, PurePosixPath]) -> None:
    """Raise `DatasetError` when an image has no mask or a mask no image."""
    for first, second, what in ((images, masks, "mask"), (masks, images, "image")):
        alone = [path for key, path in sorted(first.items()) if key not in second]
        if alone:
            raise DatasetError(f"There is no {what} for {listing(alone)}.", hint=_LAYOUT)
    if not images:
        raise DatasetError("There is no image in the data set.", hint=_LAYOUT)


def check_masked(found: MaskedSet) -> dict[PurePosixPath, list[int]]:
    """Decode every image and mask and return the values of each mask.

    An image or a mask may be alone: its other half may come in another piece of the set.

    Raises:
        DatasetError: one does not decode, is of another size than its other half, or has a value of no class.
    """
    image_of = {pair.mask: pair.image for pair in found.halves}
    alone = [path for path in found.images.values() if path not in set(image_of.values())]

    def problem(path: PurePosixPath) -> DatasetError | None:
        try:
            image_size(read_image(found.root, path), str(path))
        except DatasetError as error:
            return error
        return None

    def read(mask: PurePosixPath) -> DatasetError | list[int]:
        try:
            return read_mask(found.root, mask, image_of.get(mask)).values
        except DatasetError as error:
            return error

    masks = sorted(found.masks.values())
    answers = list(map_in_order(read, masks))
    broken = [*filter(None, map_in_order(problem, alone)), *(a for a in answers if isinstance(a, DatasetError))]
    if broken:
        more = f" In all {len(broken)} files are wrong." if len(broken) > 1 else ""
        raise DatasetError(broken[0].message + more, hint=broken[0].hint)
    values = {mask: answer for mask, answer in zip(masks, answers, strict=True) if not isinstance(answer, DatasetError)}
    classes_of_masks(mask_values(values), found.listed)
    return values


class ReadMask(NamedTuple):
    content: bytes
    values: list[int]
    width: int
    height: int


def read_mask(root: Path, mask: PurePosixPath, image: PurePosixPath | None) -> ReadMask:
    """Return a mask; it has the size of `image`, which is decoded for that.

    Raises:
        DatasetError: one of the two does not decode, or their sizes differ.
    """
    content = read_image(root, mask)
    values_HW = decode_mask(content, str(mask))
    height, width = values_HW.shape
    if image is not None and (size := image_size(read_image(root, image), str(image))) != (width, height):
        raise DatasetError(
            f"{mask} has {width} x {height} pixels, and {image} has {size[0]} x {size[1]}.",
            hint="An image and its mask are of one size.",
        )
    return ReadMask(content, values_in(values_HW, str(mask)), width, height)


def mask_values(values: dict[PurePosixPath, list[int]]) -> list[MaskValues]:
    return [MaskValues(str(path), found) for path, found in sorted(values.items())]


def _base(content: FolderContent, kind: str) -> PurePosixPath | None:
    """Return the folder of the images or of the masks: the one that lies highest."""
    named: Sequence[PurePosixPath] = [path for path in content.folders if path.name.lower().startswith(kind)]
    if not named:
        return None
    top = min(len(path.parts) for path in named)
    highest = [path for path in named if len(path.parts) == top]
    if len(highest) > 1:
        raise DatasetError(
            f"There must be one `{kind}` folder, found {len(highest)}: {listing(highest)}.",
            hint="Send training and evaluation images as data sets of their own.",
        )
    return highest[0]

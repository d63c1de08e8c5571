"""The formats that data sets are uploaded in, one object for each: what the rest of the project asks a format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from ..schemas.actions import Action
from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter
from ..schemas.specs import Spec
from . import box_formats
from .box_index import build_box_index
from .box_pieces import count_boxes, read_box_piece, require_boxes
from .data_types import IMAGE_CLASSIFICATION, INSTANCE_SEGMENTATION, OBJECT_DETECTION, SEMANTIC_SEGMENTATION
from .image_folder import (
    CLASSES_FILE,
    CUSTOM,
    FORMATS,
    RAW,
    UNLABELLED,
    ImageSet,
    LabelledImage,
    canonical_paths,
    check_layout,
    require_two_classes,
    scan_images,
)
from .index import IndexInfo, build_image_index
from .manifest import PlacedFile, RawFile, RawManifest
from .mask_classes import MaskValues, classes_of_masks, read_class_list, require_two_mask_classes
from .mask_folder import IMAGES, MASKS, UNET, check_masked, require_pairs, scan_masked
from .specs import (
    AnalysisSpec,
    AnchorSpec,
    AugmentationSpec,
    BoxConversionSpec,
    ConversionSpec,
    FormatConversionSpec,
    ValidationSpec,
)

Specs = Mapping[Action, type[Spec]]


class DataFormat(Protocol):
    """One way in which data sets of one type lie on disk."""

    def __hash__(self) -> int: ...

    @property
    def type(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def specs(self) -> Specs:
        """The actions of such sets, and what each can be told."""

    def read_piece(self, root: Path) -> dict[PurePosixPath, PlacedFile]:
        """Check all of an uploaded piece and return its files.

        Raises:
            DatasetError: it is not of this format, or something in it is broken.
        """

    def class_counts(self, files: Mapping[str, RawFile], read: Callable[[str], bytes]) -> dict[str, int]:
        """Return how many images (or boxes) of a set each class has, in the order of the labels.

        `read` gives the bytes of a file.

        Raises:
            DatasetError: the pieces of the set contradict each other.
        """

    def require_trainable(self, manifest: RawManifest) -> None:
        """Raise `DatasetError` when nothing can be learnt from a set."""

    def build_index(
        self, root: Path, destination: Path, reporter: Reporter | None = None, spec: Spec | None = None
    ) -> IndexInfo:
        """Write the index of the whole set below `root` as the folder `destination` and return its facts.

        `spec` is that of the action convert.

        Raises:
            DatasetError: it is not of this format, is not complete, or something in it is broken.
            StorageFull: no room left.
        """


_CONVERSION: Specs = {
    Action.CONVERT: ConversionSpec,
    Action.DATASET_CONVERT: ConversionSpec,
}
#: In the order in which the API documents name them.
_BOX_ACTIONS: Specs = {
    Action.CONVERT: BoxConversionSpec,
    Action.CONVERT_AND_INDEX: BoxConversionSpec,
    Action.CONVERT_EFFICIENTDET_TF1: BoxConversionSpec,
    Action.CONVERT_EFFICIENTDET_TF2: BoxConversionSpec,
    Action.ANNOTATION_FORMAT_CONVERT: FormatConversionSpec,
    Action.AUGMENT: AugmentationSpec,
    Action.ANALYZE: AnalysisSpec,
    Action.VALIDATE: ValidationSpec,
    Action.KMEANS: AnchorSpec,
    Action.DATASET_CONVERT: BoxConversionSpec,
}
#: Other formats cannot hold masks, and anchors are for detectors.
_INSTANCE_ACTIONS: Specs = {
    action: spec
    for action, spec in _BOX_ACTIONS.items()
    if action not in (Action.ANNOTATION_FORMAT_CONVERT, Action.KMEANS)
}


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Images in a folder per class, or without labels; see `image_folder`."""

    type: str
    name: str

    @property
    def specs(self) -> Specs:
        return _CONVERSION

    def read_piece(self, root: Path) -> dict[PurePosixPath, PlacedFile]:
        check_layout(root, self.name)
        return {source: PlacedFile(target) for source, target in canonical_paths(root, self.name).items()}

    def class_counts(self, files: Mapping[str, RawFile], read: Callable[[str], bytes]) -> dict[str, int]:
        if self.name == RAW:
            return {}
        paths = [path for path in map(PurePosixPath, files) if len(path.parts) > 1]
        counts = Counter(path.parts[1] for path in paths if len(path.parts) > 2)
        is_tabled = any(len(path.parts) == 2 for path in paths)
        if counts and is_tabled:
            raise DatasetError(
                "Some images of the data set lie in class folders, and some do not.",
                hint="Send all pieces in one form: class folders, or images with a table of labels.",
            )
        if is_tabled:
            return {}
        if CLASSES_FILE not in files:
            return {name: counts[name] for name in sorted(counts)}
        lines = read(CLASSES_FILE).decode("utf-8-sig").splitlines()
        listed = [name for line in lines if (name := line.strip())]
        missing = sorted(set(counts) - set(listed))
        if missing:
            raise DatasetError(
                f"The class {missing[0]!r} is not in {CLASSES_FILE}.",
                hint="Every piece of a data set goes with one list of all its classes.",
            )
        return {name: counts[name] for name in listed}

    def require_trainable(self, manifest: RawManifest) -> None:
        if self.type == SEMANTIC_SEGMENTATION:
            raise DatasetError(
                f"A data set of the format {RAW} has no masks to learn from.", hint=f"Train on the format {UNET}."
            )
        if manifest.classes or self.name != CUSTOM:  # else they are in a table
            require_two_classes(manifest.classes)

    def build_index(
        self, root: Path, destination: Path, reporter: Reporter | None = None, spec: Spec | None = None
    ) -> IndexInfo:
        found = scan_images(root, self.name)
        return build_image_index(found, destination, reporter, type=self.type, format=self.name)


@dataclass(frozen=True, slots=True)
class MaskedImages:
    """Images with a mask each; see `mask_folder`."""

    type: str = SEMANTIC_SEGMENTATION
    name: str = UNET

    @property
    def specs(self) -> Specs:
        return _CONVERSION

    def read_piece(self, root: Path) -> dict[PurePosixPath, PlacedFile]:
        found = scan_masked(root)
        values = check_masked(found)
        return {source: PlacedFile(target, values.get(source)) for source, target in found.targets.items()}

    def class_counts(self, files: Mapping[str, RawFile], read: Callable[[str], bytes]) -> dict[str, int]:
        listed = read_class_list(read(CLASSES_FILE), CLASSES_FILE) if CLASSES_FILE in files else None
        masks = [MaskValues(path, file.mask_values) for path, file in files.items() if file.mask_values is not None]
        return classes_of_masks(masks, listed).counts(masks)

    def require_trainable(self, manifest: RawManifest) -> None:
        found: dict[str, dict[str, PurePosixPath]] = {IMAGES: {}, MASKS: {}}
        for file in manifest.files:
            path = PurePosixPath(file.path)
            if path.parts[0] in found:
                found[path.parts[0]][str(path.relative_to(path.parts[0]).with_suffix(""))] = path
        require_pairs(found[IMAGES], found[MASKS])
        require_two_mask_classes(manifest.classes)

    def build_index(
        self, root: Path, destination: Path, reporter: Reporter | None = None, spec: Spec | None = None
    ) -> IndexInfo:
        found = scan_masked(root)
        images = ImageSet(
            root=root,
            images=tuple(LabelledImage(pair.image, UNLABELLED) for pair in found.pairs),
            classes=(),
            masks=tuple(pair.mask for pair in found.pairs),
            listed=None if found.listed is None else tuple(found.listed),
        )
        return build_image_index(images, destination, reporter, type=self.type, format=self.name)


@dataclass(frozen=True, slots=True)
class BoxedPictures:
    """Pictures with boxes, or without any to predict them; see `box_formats`."""

    type: str
    name: str

    @property
    def specs(self) -> Specs:
        if self.name not in box_formats.LABELLED:
            return {}
        return _BOX_ACTIONS if self.type == OBJECT_DETECTION else _INSTANCE_ACTIONS

    @property
    def needs_masks(self) -> bool:
        return self.type == INSTANCE_SEGMENTATION

    def read_piece(self, root: Path) -> dict[PurePosixPath, PlacedFile]:
        return read_box_piece(root, self.name, masks=self.needs_masks)

    def class_counts(self, files: Mapping[str, RawFile], read: Callable[[str], bytes]) -> dict[str, int]:
        return count_boxes(self.name, files, read)

    def require_trainable(self, manifest: RawManifest) -> None:
        require_boxes(manifest)

    def build_index(
        self, root: Path, destination: Path, reporter: Reporter | None = None, spec: Spec | None = None
    ) -> IndexInfo:
        told = spec if isinstance(spec, BoxConversionSpec) else BoxConversionSpec()
        options, rename = told.read_options(masks=self.needs_masks), told.new_names
        return build_box_index(root, self.name, destination, reporter, type=self.type, options=options, rename=rename)


_FORMATS: tuple[DataFormat, ...] = (
    *(ImageFolder(IMAGE_CLASSIFICATION, name) for name in FORMATS),
    MaskedImages(),
    ImageFolder(SEMANTIC_SEGMENTATION, RAW),
    *(BoxedPictures(OBJECT_DETECTION, name) for name in box_formats.FORMATS),
    *(BoxedPictures(INSTANCE_SEGMENTATION, name) for name in ("coco", "coco_raw", RAW)),
)


def data_format(name: str, type: str | None = None) -> DataFormat:
    """Return the format of that name for a type of data; without a type, of the first that has it.

    Raises:
        DatasetError: there is none.
    """
    for candidate in _FORMATS:
        if candidate.name == name and type in (None, candidate.type):
            return candidate
    names = dict.fromkeys(known.name for known in _FORMATS if type in (None, known.type))
    raise DatasetError(
        f"The format {name!r} does not go with {type or 'any type of data'}.",
        hint=f"Use one of {', '.join(names)}." if names else "Use another type.",
    )


def build_index(
    raw_root: Path, format: str, destination: Path, reporter: Reporter | None = None, *, type: str | None = None
) -> IndexInfo:
    """Write the index of the set below `raw_root` as the folder `destination` and return its facts.

    `type` is the type of data, for formats that several have. The same set gives the same bytes. The folder
    appears whole or not at all; one that is there is replaced.

    Raises:
        DatasetError: the set is not as its format wants it.
        StorageFull: no room left.
    """
    return data_format(format, type).build_index(raw_root, destination, reporter)


def data_types() -> tuple[str, ...]:
    """Return the types of data that there are formats for, sorted."""
    return tuple(sorted({known.type for known in _FORMATS}))


def formats_of(type: str) -> tuple[DataFormat, ...]:
    """Return the formats of a type of data; none for a type that is unknown."""
    return tuple(known for known in _FORMATS if known.type == type)

"""The indexed form of an image set, the only one that networks read: one folder of three files.

dataset.json    an `IndexInfo`
index.parquet   a row per image: path, label, width, height, offset, length, sha256
images.bin      the encoded images, back to back in the order of the rows

Sets with labels of several tasks have one file more, see `task_labels`, and so have sets with boxes, see `box_index`;
sets with masks have two, see `mask_index`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter, SilentReporter
from .data_types import IMAGE_CLASSIFICATION
from .disk import sync
from .folder import read_folder
from .image_folder import ImageSet, LabelledImage, read_image
from .images import decode_rgb, image_size
from .manifest import RawFile, digest_of, hash_file
from .mask_classes import MaskClasses, MaskValues, classes_of_masks
from .mask_index import MaskIndex, MaskRow, SizedImage, write_masks
from .new_folder import new_folder
from .parallel import map_in_order
from .task_labels import TaskLabels, read_tables, read_tasks, write_tasks

#: Raised when the three files change in a way that older readers misread.
INDEX_VERSION = 1

INFO_FILE, ROWS_FILE, IMAGES_FILE = "dataset.json", "index.parquet", "images.bin"

ROW_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)

_REBUILD = "Run the convert job of the data set again."


class IndexInfo(BaseModel):
    """What `dataset.json` says about an index."""

    model_config = ConfigDict(frozen=True)

    version: int = INDEX_VERSION
    type: str = IMAGE_CLASSIFICATION
    classes: list[str] = Field(description="In the order of the labels; empty for a set without labels.")
    class_counts: dict[str, int] = Field(
        description="Images that are of the class or have pixels of it; in a set with boxes, boxes of it."
    )
    count: int = Field(ge=1)
    size_bytes: int = Field(ge=1, description="Size of images.bin.")
    digest: str = Field(description="SHA-256 over classes and, per image, path, label and hash, and over the masks.")
    format: str = Field(description="Format of the raw set that this was built from.")
    raw_digest: str = Field(description="Digest of the raw set's manifest.")
    masks: MaskClasses | None = Field(default=None, description="What the values of the masks mean, if there are any.")
    tasks: dict[str, list[str]] = Field(default={}, description="Classes of each task, of sets that have several.")


class _Row(NamedTuple):
    path: str
    label: int
    width: int
    height: int
    offset: int
    length: int
    sha256: str


class _Encoded(NamedTuple):
    image: LabelledImage
    content: bytes
    width: int
    height: int
    sha256: str


def build_image_index(
    found: ImageSet, destination: Path, reporter: Reporter | None = None, *, type: str, format: str
) -> IndexInfo:
    """Write the index of an image set as the folder `destination` and return its facts; see `formats.build_index`.

    Raises:
        DatasetError: an image or a mask does not decode, or the labels are not as they should be.
        StorageFull: no room left.
    """
    reporter = reporter or SilentReporter()
    raw_root = found.root
    tasks = read_tables(raw_root, [i.path for i in found.images], found.tables) if found.is_tabled else None
    with new_folder(destination, "write the indexed data set") as folder:
        rows = write_images(raw_root, found.images, folder / IMAGES_FILE, reporter)
        mask_rows: list[MaskRow] = []
        mask_values: list[MaskValues] = []
        masks = None
        if found.masks:
            sized = [SizedImage(row.path, row.width, row.height) for row in rows]
            mask_rows = write_masks(raw_root, found.masks, sized, folder, reporter)
            mask_values = [MaskValues(row.path, row.values) for row in mask_rows]
            masks = classes_of_masks(mask_values, found.listed)
        classes = found.classes if masks is None else tuple(masks.classes)
        others = sorted({*read_folder(raw_root).files} - {image.path for image in found.images} - {*found.masks})
        hashed = [
            *(RawFile(path=row.path, size_bytes=row.length, sha256=row.sha256) for row in rows),
            *(RawFile(path=row.path, size_bytes=row.length, sha256=row.sha256) for row in mask_rows),
            *(hash_file(raw_root, path) for path in others),
        ]
        columns = dict(zip(_Row._fields, map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns, schema=ROW_SCHEMA), folder / ROWS_FILE, compression="zstd")
        info = IndexInfo(
            type=type,
            classes=list(classes),
            class_counts=_counts(found, tasks, masks, mask_values),
            count=len(rows),
            size_bytes=rows[-1].offset + rows[-1].length,
            digest=_digest(classes, rows, tasks, masks, mask_rows),
            format=format,
            raw_digest=digest_of(hashed),
            tasks=tasks.tasks if tasks else {},
            masks=masks,
        )
        if tasks is not None:
            sync(write_tasks(folder, tasks))
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2, exclude_none=True) + "\n", encoding="utf-8")
        for path in (folder / ROWS_FILE, folder / INFO_FILE):
            sync(path)
    return info


def write_images(raw_root: Path, images: tuple[LabelledImage, ...], file: Path, reporter: Reporter) -> list[_Row]:
    """Write the images back to back as `file` and return a row for each."""

    def encode(image: LabelledImage) -> _Encoded:
        content = read_image(raw_root, image.path)
        width, height = image_size(content, str(image.path))
        return _Encoded(image, content, width, height, hashlib.sha256(content).hexdigest())

    rows: list[_Row] = []
    offset = 0
    step = max(1, len(images) // 50)
    with file.open("wb") as stream:
        for image, content, width, height, sha256 in map_in_order(encode, images):
            stream.write(content)
            rows.append(_Row(str(image.path), image.label, width, height, offset, len(content), sha256))
            offset += len(content)
            if len(rows) % step == 0 or len(rows) == len(images):
                reporter.progress(len(rows) / len(images), f"{len(rows)} of {len(images)} images indexed")
    sync(file)
    return rows


def _counts(
    found: ImageSet, tasks: TaskLabels | None, masks: MaskClasses | None, values: Sequence[MaskValues]
) -> dict[str, int]:
    if masks is not None:
        return masks.counts(values)
    return found.class_counts() if tasks is None else tasks.counts()


def _digest(
    classes: Iterable[str],
    rows: Iterable[_Row],
    tasks: TaskLabels | None,
    masks: MaskClasses | None,
    mask_rows: Iterable[MaskRow],
) -> str:
    digest = hashlib.sha256()
    for name in classes:
        digest.update(f"class {name}\n".encode())
    for row in rows:
        digest.update(f"{row.sha256} {row.label} {row.path}\n".encode())
    if tasks is not None:
        digest.update(f"tasks {json.dumps(tasks.tasks)} {tasks.labels.tolist()}\n".encode())
    for value, label in masks.labels.items() if masks is not None else ():
        digest.update(f"value {value} {label}\n".encode())
    for mask in mask_rows:
        digest.update(f"mask {mask.sha256} {mask.path}\n".encode())
    return digest.hexdigest()


class ImageIndex:
    """An open index. Images are read through a shared memory map: cheap to fork, and to pickle for other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = _read_info(folder)
        table = _read_rows(folder, self.info)
        self.labels: npt.NDArray[np.int64] = table["label"].to_numpy().astype(np.int64)
        self.widths: npt.NDArray[np.int64] = table["width"].to_numpy().astype(np.int64)
        self.heights: npt.NDArray[np.int64] = table["height"].to_numpy().astype(np.int64)
        self._offsets: npt.NDArray[np.int64] = table["offset"].to_numpy()
        self._lengths: npt.NDArray[np.int64] = table["length"].to_numpy()
        self._paths: list[str] = table["path"].to_pylist()
        self.task_labels = self._read_tasks()
        """Labels (N, tasks) that count into `tasks`; no column for sets without tasks."""
        self._check()
        with (folder / IMAGES_FILE).open("rb") as stream:
            self._images = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return self.info.count

    def __reduce__(self) -> tuple[type[ImageIndex], tuple[Path]]:
        return type(self), (self.folder,)

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of the labels; empty for a set without labels."""
        return self.info.classes

    @property
    def tasks(self) -> dict[str, list[str]]:
        """Names of the classes of each task, in the order of the labels; empty for most sets."""
        return self.info.tasks

    @property
    def digest(self) -> str:
        """One hash for images, labels and classes: the version of the data."""
        return self.info.digest

    def path(self, i: int) -> str:
        """Return the path that image `i` had in the raw set."""
        return self._paths[i]

    def read(self, i: int) -> bytes:
        """Return the encoded bytes of image `i`, as they were uploaded."""
        start = int(self._offsets[i])
        return self._images[start : start + int(self._lengths[i])]

    def image(self, i: int) -> Image.Image:
        """Return image `i` upright and in mode RGB.

        Raises:
            DatasetError: the bytes changed since the index was built.
        """
        return decode_rgb(self.read(i), self.path(i))

    def masks(self) -> MaskIndex | None:
        """Return the masks of the images; None in a set without any.

        Raises:
            DatasetError: they are damaged.
        """
        return None if self.info.masks is None else MaskIndex(self.folder, len(self), self.info.masks)

    def _read_tasks(self) -> npt.NDArray[np.int64]:
        if not self.tasks:
            return np.empty((len(self), 0), np.int64)
        try:
            return read_tasks(self.folder, self.tasks, len(self))
        except ValueError as error:
            raise damaged(self.folder, str(error)) from error

    def _check(self) -> None:
        ends = np.cumsum(self._lengths)
        size_bytes = (self.folder / IMAGES_FILE).stat().st_size
        if size_bytes != self.info.size_bytes or int(ends[-1]) != size_bytes:
            raise damaged(self.folder, f"{IMAGES_FILE} has {size_bytes} bytes, not {self.info.size_bytes}")
        if (self._lengths <= 0).any() or (self._offsets != ends - self._lengths).any():
            raise damaged(self.folder, f"{ROWS_FILE} and {IMAGES_FILE} do not belong together")
        self._check_labels()

    def _check_labels(self) -> None:
        has_labels = self.classes and self.info.type == IMAGE_CLASSIFICATION
        lowest, highest = (0, len(self.classes) - 1) if has_labels else (-1, -1)
        if self.labels.min() < lowest or self.labels.max() > highest:
            raise damaged(self.folder, f"{ROWS_FILE} has labels without a class")


def open_index(folder: Path) -> ImageIndex:
    """Return the index in `folder`.

    Raises:
        DatasetError: there is none, it is of another version or it is damaged.
    """
    return ImageIndex(folder)


def _read_info(folder: Path) -> IndexInfo:
    if not (folder / INFO_FILE).is_file():
        raise DatasetError(f"There is no indexed data set in {folder}.", hint="Run the convert job of the data set.")
    try:
        info = IndexInfo.model_validate_json((folder / INFO_FILE).read_bytes())
    except ValidationError as error:
        raise damaged(folder, f"{INFO_FILE} is not readable") from error
    if info.version != INDEX_VERSION:
        raise DatasetError(
            f"The indexed data set in {folder} has version {info.version}, and this program reads {INDEX_VERSION}.",
            hint=_REBUILD,
        )
    return info


def _read_rows(folder: Path, info: IndexInfo) -> pa.Table:
    for name in (ROWS_FILE, IMAGES_FILE):
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
    try:
        # why: no threads, since a process that forks workers must not have started any.
        table = pq.read_table(folder / ROWS_FILE, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise damaged(folder, f"{ROWS_FILE} is not readable") from error
    if not table.schema.equals(ROW_SCHEMA):
        raise damaged(folder, f"{ROWS_FILE} has other columns than {', '.join(ROW_SCHEMA.names)}")
    if table.num_rows != info.count:
        raise damaged(folder, f"{ROWS_FILE} has {table.num_rows} rows, not {info.count}")
    return table


def damaged(folder: Path, what: str) -> DatasetError:
    """Return the error that says so, and what helps."""
    return DatasetError(f"The indexed data set in {folder} is damaged: {what}.", hint=_REBUILD)

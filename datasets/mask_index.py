"""The masks of an index: two more files in its folder, for sets whose annotation is an image.

masks.parquet   a row per image, in the order of the images: path, offset, length, sha256, values
masks.bin       the masks as they were uploaded, back to back
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter
from .disk import sync
from .mask_classes import MaskClasses, MaskValues
from .mask_folder import read_mask
from .masks import Values, decode_mask
from .parallel import map_in_order

ROWS_FILE, MASKS_FILE = "masks.parquet", "masks.bin"

_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("values", pa.list_(pa.int32()), nullable=False),
    ]
)

_REBUILD = "Run the convert job of the data set again."


class SizedImage(NamedTuple):
    """What a mask must fit."""

    path: str
    width: int
    height: int


class MaskRow(NamedTuple):
    path: str
    offset: int
    length: int
    sha256: str
    values: list[int]


def write_masks(
    raw_root: Path, masks: Sequence[PurePosixPath], images: Sequence[SizedImage], folder: Path, reporter: Reporter
) -> list[MaskRow]:
    """Write the masks of `images` into the folder of an index, in their order, and return a row for each.

    Raises:
        DatasetError: a mask does not decode, is no mask or has another size than its image.
    """
    rows: list[MaskRow] = []
    offset = 0
    step = max(1, len(masks) // 50)
    with (folder / MASKS_FILE).open("wb") as stream:
        found = map_in_order(lambda mask: read_mask(raw_root, mask, None), masks)
        for mask, image, read in zip(masks, images, found, strict=True):
            if (read.width, read.height) != (image.width, image.height):
                raise DatasetError(
                    f"{mask} has {read.width} x {read.height} pixels, and {image.path} has {image.width} x "
                    f"{image.height}.",
                    hint="An image and its mask are of one size.",
                )
            stream.write(read.content)
            sha256 = hashlib.sha256(read.content).hexdigest()
            rows.append(MaskRow(str(mask), offset, len(read.content), sha256, read.values))
            offset += len(read.content)
            if len(rows) % step == 0 or len(rows) == len(masks):
                reporter.progress(len(rows) / len(masks), f"{len(rows)} of {len(masks)} masks indexed")
    sync(folder / MASKS_FILE)
    columns = dict(zip(MaskRow._fields, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns, schema=_SCHEMA), folder / ROWS_FILE, compression="zstd")
    sync(folder / ROWS_FILE)
    return rows


class MaskIndex:
    """The masks of an open index, read through a shared memory map."""

    def __init__(self, folder: Path, count: int, classes: MaskClasses) -> None:
        self.folder = folder
        self.classes = classes
        """What the data set itself says about its values; a spec may say otherwise."""
        table = _read_rows(folder, count)
        self._offsets: npt.NDArray[np.int64] = table["offset"].to_numpy()
        self._lengths: npt.NDArray[np.int64] = table["length"].to_numpy()
        self._paths: list[str] = table["path"].to_pylist()
        self._values: list[list[int]] = table["values"].to_pylist()
        ends = np.cumsum(self._lengths)
        if (self._offsets != ends - self._lengths).any() or int(ends[-1]) != (folder / MASKS_FILE).stat().st_size:
            raise _damaged(folder, f"{ROWS_FILE} and {MASKS_FILE} do not belong together")
        with (folder / MASKS_FILE).open("rb") as stream:
            self._masks = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._paths)

    def __reduce__(self) -> tuple[type[MaskIndex], tuple[Path, int, MaskClasses]]:
        return type(self), (self.folder, len(self), self.classes)

    def values(self) -> list[MaskValues]:
        """Return what values occur in each mask."""
        return [MaskValues(path, values) for path, values in zip(self._paths, self._values, strict=True)]

    def read(self, i: int) -> bytes:
        """Return the bytes of mask `i`, as they were uploaded."""
        start = int(self._offsets[i])
        return self._masks[start : start + int(self._lengths[i])]

    def mask(self, i: int) -> Values:
        """Return the value of every pixel of mask `i`, of shape HW."""
        return decode_mask(self.read(i), self._paths[i])


def _read_rows(folder: Path, count: int) -> pa.Table:
    for name in (ROWS_FILE, MASKS_FILE):
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
    try:
        # why: no threads, since a process that forks workers must not have started any.
        table = pq.read_table(folder / ROWS_FILE, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(folder, f"{ROWS_FILE} is not readable") from error
    if table.column_names != _SCHEMA.names:
        raise _damaged(folder, f"{ROWS_FILE} has other columns than {', '.join(_SCHEMA.names)}")
    if table.num_rows != count:
        raise _damaged(folder, f"{ROWS_FILE} has {table.num_rows} rows, not {count}")
    return table


def _damaged(folder: Path, what: str) -> DatasetError:
    return DatasetError(f"The masks of the indexed data set in {folder} are damaged: {what}.", hint=_REBUILD)

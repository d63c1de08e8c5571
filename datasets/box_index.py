"""The indexed form of a detection set: that of an image set (see `index`) and one file more.

boxes.parquet   a row per box, in the order of the images: image, x1, y1, x2, y2, label, crowd, difficult, truncated,
                occluded, area, mask (as COCO's JSON)

It holds what networks learn from and are measured by. What only other formats need (ids, poses, KITTI's third
dimension, scores) stays in the raw set, which is converted from format to format without an index.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from ..schemas.errors import DatasetError
from ..schemas.reporting import Reporter, SilentReporter
from .box_convert import rename_classes
from .box_folder import ReadOptions
from .box_formats import read_boxes
from .boxes import DONT_CARE, Box, BoxSet, Polygons, RunLengths
from .data_types import BOXED, OBJECT_DETECTION
from .disk import sync
from .folder import read_folder
from .image_folder import UNLABELLED, LabelledImage
from .index import (
    IMAGES_FILE,
    INFO_FILE,
    ROW_SCHEMA,
    ROWS_FILE,
    ImageIndex,
    IndexInfo,
    damaged,
    write_images,
)
from .manifest import RawFile, digest_of, hash_file
from .new_folder import new_folder

BOXES_FILE = "boxes.parquet"

_SCHEMA = pa.schema(
    [
        pa.field("image", pa.int32(), nullable=False),
        *(pa.field(edge, pa.float64(), nullable=False) for edge in ("x1", "y1", "x2", "y2")),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("crowd", pa.bool_(), nullable=False),
        pa.field("difficult", pa.bool_(), nullable=False),
        pa.field("truncated", pa.float64(), nullable=False),
        pa.field("occluded", pa.int8(), nullable=False),
        pa.field("area", pa.float64(), nullable=False),
        pa.field("mask", pa.string()),
    ]
)


class BoxIndexInfo(IndexInfo):
    """What `dataset.json` says about an index with boxes; `class_counts` counts boxes."""

    type: str = OBJECT_DETECTION
    boxes: int = Field(ge=0)
    masks_count: int = Field(default=0, ge=0, description="Boxes with a mask.")
    boxes_sha256: str = Field(description="SHA-256 of boxes.parquet.")


def build_box_index(
    raw_root: Path,
    format: str,
    destination: Path,
    reporter: Reporter | None = None,
    *,
    type: str = OBJECT_DETECTION,
    options: ReadOptions | None = None,
    rename: Mapping[str, str] | None = None,
) -> BoxIndexInfo:
    """Write the index of the detection set below `raw_root` as the folder `destination` and return its facts.

    `rename` gives classes other names, see `rename_classes`. The same set gives the same bytes. The folder appears
    whole or not at all; one that is there is replaced.

    Raises:
        DatasetError: the set is not as `read_boxes` wants it, a picture does not decode, or there is no class that
            `rename` names.
        StorageFull: no room left.
    """
    reporter = reporter or SilentReporter()
    boxes = read_boxes(raw_root, format, options)
    for note in boxes.notes:
        reporter.log(note)
    if rename:
        boxes = rename_classes(boxes, rename)
    images = tuple(LabelledImage(picture.path, UNLABELLED) for picture in boxes.pictures)
    with new_folder(destination, "write the indexed data set") as folder:
        rows = write_images(raw_root, images, folder / IMAGES_FILE, reporter)
        columns = dict(zip(rows[0]._fields, map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns, schema=ROW_SCHEMA), folder / ROWS_FILE, compression="zstd")
        table = _table(boxes)
        pq.write_table(table, folder / BOXES_FILE, compression="zstd")
        others = sorted(set(read_folder(raw_root).files) - {image.path for image in images})
        hashed = [
            *(RawFile(path=row.path, size_bytes=row.length, sha256=row.sha256) for row in rows),
            *(hash_file(raw_root, path) for path in others),
        ]
        info = BoxIndexInfo(
            type=type,
            classes=boxes.class_names,
            class_counts=boxes.class_counts(),
            count=len(rows),
            size_bytes=rows[-1].offset + rows[-1].length,
            digest=_digest(boxes, [row.sha256 for row in rows]),
            format=format,
            raw_digest=digest_of(hashed),
            boxes=table.num_rows,
            masks_count=table.num_rows - table["mask"].null_count,
            boxes_sha256=_sha256(folder / BOXES_FILE),
        )
        (folder / INFO_FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for name in (ROWS_FILE, BOXES_FILE, INFO_FILE):
            sync(folder / name)
    return info


def _table(boxes: BoxSet) -> pa.Table:
    every = [(number, box) for number, picture in enumerate(boxes.pictures) for box in picture.boxes]
    columns: dict[str, list[Any]] = {
        "image": [number for number, _ in every],
        "x1": [box.x1 for _, box in every],
        "y1": [box.y1 for _, box in every],
        "x2": [box.x2 for _, box in every],
        "y2": [box.y2 for _, box in every],
        "label": [box.label for _, box in every],
        "crowd": [box.crowd for _, box in every],
        "difficult": [box.difficult for _, box in every],
        "truncated": [box.truncated for _, box in every],
        "occluded": [box.occluded for _, box in every],
        "area": [box.width * box.height if box.area is None else box.area for _, box in every],
        "mask": [_mask_text(box) for _, box in every],
    }
    return pa.table(columns, schema=_SCHEMA)


def _mask_text(box: Box) -> str | None:
    if box.mask is None:
        return None
    if isinstance(box.mask, Polygons):
        return json.dumps(box.mask.parts)
    return json.dumps({"size": [box.mask.height, box.mask.width], "counts": box.mask.counts})


def _digest(boxes: BoxSet, sha256s: list[str]) -> str:
    """Return one hash for pictures, boxes and classes: the same whatever format they came in."""
    digest = hashlib.sha256()
    for name in boxes.class_names:
        digest.update(f"class {name}\n".encode())
    for picture, sha256 in zip(boxes.pictures, sha256s, strict=True):
        digest.update(f"{sha256} {picture.name}\n".encode())
        for box in picture.boxes:
            facts = box.crowd, box.difficult, box.truncated, box.occluded, box.area
            digest.update(f"{box.xyxy} {box.label} {facts} {_mask_text(box)}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class BoxIndex(ImageIndex):
    """An open index with boxes. Those of image `i` are the rows `of(i)` of the arrays here.

    Shapes: N boxes of all images together.
    """

    info: BoxIndexInfo

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.info = _read_info(folder)
        if not (folder / BOXES_FILE).is_file():
            raise damaged(folder, f"{BOXES_FILE} is missing")
        if _sha256(folder / BOXES_FILE) != self.info.boxes_sha256:
            raise damaged(folder, f"{BOXES_FILE} is not the file that was written")
        # why: no threads, since a process that forks workers must not have started any; masks are large and rarely
        # asked for.
        names = [name for name in _SCHEMA.names if name != "mask"]
        table = pq.read_table(folder / BOXES_FILE, columns=names, use_threads=False)
        self.images: npt.NDArray[np.int64] = table["image"].to_numpy().astype(np.int64)
        """N: the image of each box, ascending."""
        self.edges: npt.NDArray[np.float32] = np.stack(
            [table[edge].to_numpy() for edge in ("x1", "y1", "x2", "y2")], axis=1
        ).astype(np.float32)
        """N4: left, top, right, bottom in pixels of the image."""
        self.box_labels: npt.NDArray[np.int64] = table["label"].to_numpy().astype(np.int64)
        """N: DONT_CARE for regions to ignore."""
        self.is_crowd: npt.NDArray[np.bool_] = table["crowd"].to_numpy()
        self.is_difficult: npt.NDArray[np.bool_] = table["difficult"].to_numpy()
        self.truncated: npt.NDArray[np.float64] = table["truncated"].to_numpy()
        self.occluded: npt.NDArray[np.int64] = table["occluded"].to_numpy().astype(np.int64)
        self.areas: npt.NDArray[np.float64] = table["area"].to_numpy()
        self.is_ignored: npt.NDArray[np.bool_] = self.is_crowd | (self.box_labels == DONT_CARE)
        self._starts = np.searchsorted(self.images, np.arange(len(self) + 1))

    def of(self, i: int) -> slice:
        """Return the rows of the boxes of image `i`."""
        return slice(int(self._starts[i]), int(self._starts[i + 1]))

    @cached_property
    def _masks(self) -> pa.ChunkedArray:
        return pq.read_table(self.folder / BOXES_FILE, columns=["mask"], use_threads=False)["mask"]

    @cached_property
    def has_mask(self) -> npt.NDArray[np.bool_]:
        """N: whether a box has a mask."""
        return np.asarray(self._masks.is_valid())

    def mask(self, row: int) -> Polygons | RunLengths | None:
        """Return the mask of the box `row`, None where it has none."""
        return _mask(self._masks[row].as_py())

    def masks_of_boxes(self) -> Iterator[Polygons | RunLengths | None]:
        """Yield the mask of each box, None where it has none."""
        for text in self._masks:
            yield _mask(text.as_py())

    def _check_labels(self) -> None:
        if self.info.type not in BOXED:
            raise DatasetError(
                f"The indexed data set in {self.folder} is of {self.info.type}, not of {' or '.join(sorted(BOXED))}.",
                hint="Convert a data set with boxes.",
            )
        if (self.labels != UNLABELLED).any():
            raise damaged(self.folder, f"{ROWS_FILE} has labels, which are for sets of one class an image")


def _mask(text: str | None) -> Polygons | RunLengths | None:
    if text is None:
        return None
    found = json.loads(text)
    if isinstance(found, list):
        return Polygons(tuple(map(tuple, found)))
    counts = found["counts"]
    height, width = found["size"]
    return RunLengths(height, width, counts if isinstance(counts, str) else tuple(counts))


def _read_info(folder: Path) -> BoxIndexInfo:
    try:
        return BoxIndexInfo.model_validate_json((folder / INFO_FILE).read_bytes())
    except ValidationError as error:
        raise damaged(folder, f"{INFO_FILE} is not readable") from error


def open_box_index(folder: Path) -> BoxIndex:
    """Return the index in `folder`.

    Raises:
        DatasetError: there is none, it is of another version or type, or it is damaged.
    """
    return BoxIndex(folder)

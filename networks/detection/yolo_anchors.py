"""The anchors of a YOLO network where the spec has none: those of the model it starts from, else k-means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.anchors import kmeans_anchors
from ...datasets.box_index import BoxIndex
from ...schemas.errors import DatasetError
from ..weights import load_weights
from .geometry import fit
from .model import Record, parse_record
from .yolo_spec import Anchored, ThreeLevels

#: Anchors of each level, as in the papers.
_PER_LEVEL = 3

_SHAPES = ("small_anchor_shape", "mid_anchor_shape", "big_anchor_shape")


def with_anchors(record: Record, index: BoxIndex, base: Path | None) -> Record:
    """Return the record with anchors for the training boxes; as it is when it needs none.

    `base` are the weights that the training starts from.

    Raises:
        DatasetError: the boxes are too few for k-means.
    """
    names = [name for name in _SHAPES if name in record.options]
    if not names or record.options[names[0]]:
        return record
    found = _of_base(base, record) or _found(record, index, names)
    return record.model_copy(update={"options": {**record.options, **found}})


def _of_base(base: Path | None, record: Record) -> dict[str, Any] | None:
    raw = None if base is None else load_weights(base)[1]
    if base is None or raw is None:
        return None
    given = parse_record(raw, base.name)
    if given.network != record.network:  # which is refused by those who load the weights
        return None
    return {name: given.options[name] for name in _SHAPES if name in given.options}


def _found(record: Record, index: BoxIndex, names: list[str]) -> dict[str, Any]:
    canvas = record.width, record.height
    places = [fit((int(w), int(h)), canvas, record.resizing) for w, h in zip(index.widths, index.heights, strict=True)]
    scales = np.array([(place.scale_x, place.scale_y) for place in places])
    sizes = (index.edges[:, 2:] - index.edges[:, :2]) * scales[index.images]
    wanted = sizes[~index.is_ignored & (sizes >= 1).all(axis=1)].astype(np.float64)
    try:
        found = kmeans_anchors(wanted, _PER_LEVEL * len(names))
    except DatasetError as error:
        raise DatasetError(error.message, hint=f"Set {', '.join(names)} in the spec.") from error
    rounded = [[round(side, 2) for side in size] for size in found.sizes]
    return {name: rounded[_PER_LEVEL * i : _PER_LEVEL * (i + 1)] for i, name in enumerate(names)}


def levels_of(options: dict[str, Any]) -> list[list[tuple[float, float]]]:
    """Return the anchors of each level, the finest first."""
    kind = ThreeLevels if "small_anchor_shape" in options else Anchored
    return [[(width, height) for width, height in level] for level in kind.model_validate(options).levels]

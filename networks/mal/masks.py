"""Masks in the pixels of their pictures, and how well they fit the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import RunLengths
from ...schemas.errors import DatasetError
from ..detection.masks import masks_of, pack, unpack
from .crops import Crops, Window
from .model import at_size


class Made(NamedTuple):
    """The mask of a box."""

    mask: RunLengths
    score: float
    """Mean probability of its pixels; 0 for an empty one."""


def make(
    probabilities_BHW: torch.Tensor, windows: Sequence[Window], crops: Crops, numbers: Sequence[int], threshold: float
) -> list[Made]:
    """Return the masks of the boxes `numbers` from the probabilities in their crops."""
    found = []
    for probability_HW, window, number in zip(probabilities_BHW.cpu(), windows, numbers, strict=True):
        image = int(crops.index.images[crops.rows[number]])
        whole = np.zeros((int(crops.index.heights[image]), int(crops.index.widths[image])), np.bool_)
        inside_HW = at_size(probability_HW[None], window.size)[0]
        is_object = inside_HW >= threshold
        whole[window.slices] = is_object.numpy()
        found.append(Made(pack(whole), float(inside_HW[is_object].mean()) if is_object.any() else 0.0))
    return found


def true_masks(index: BoxIndex, hint: str) -> list[RunLengths]:
    """Return the mask of each box of an index; regions to ignore have all of theirs.

    Raises:
        DatasetError: an object has none; `hint` says what to do.
    """
    missing = np.flatnonzero(~index.has_mask & ~index.is_ignored)
    if len(missing):
        row = int(missing[0])
        image = int(index.images[row])
        raise DatasetError(
            f"The evaluation data set has {len(missing)} objects without a mask to compare with: the first is box "
            f"{row - index.of(image).start + 1} of {index.path(image)}.",
            hint=hint,
        )
    return [mask for image in range(len(index)) for mask in masks_of(index, image)]


def overlap(one: RunLengths, other: RunLengths) -> float:
    """Return the IoU of two masks of one picture; 1 for two empty ones."""
    ours, theirs = unpack(one), unpack(other)
    union = int((ours | theirs).sum())
    return int((ours & theirs).sum()) / union if union else 1.0

"""COCO's packed masks to pixels and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..schemas.errors import DatasetError
from .boxes import RunLengths

Mask = npt.NDArray[np.bool_]


def decode_runs(mask: RunLengths) -> Mask:
    """Return the pixels (height, width).

    Raises:
        DatasetError: the text is no run lengths, or they do not add up to the picture.
    """
    counts = _unpack(mask.counts) if isinstance(mask.counts, str) else list(mask.counts)
    if min(counts, default=0) < 0 or sum(counts) != mask.height * mask.width:
        raise DatasetError("The run lengths of a mask do not add up to its picture.", hint="Write the mask again.")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((mask.height, mask.width), order="F")


def encode_runs(mask: Mask) -> RunLengths:
    """Return a mask (height, width) as runs of 0 and 1 in turn, down the columns, beginning with 0."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return RunLengths(mask.shape[0], mask.shape[1], tuple(int(count) for count in counts))


def _unpack(text: str) -> list[int]:
    """Return the counts of COCO's text: 5 bits a character, and from the fourth on less the one before the last."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        while True:
            # why the bound: no picture has runs of more than 60 bits, and shifting for ever takes for ever.
            if position == len(text) or shift > 60:
                raise DatasetError("The run lengths of a mask are broken.", hint="Write the mask again.")
            bits = ord(text[position]) - 48
            position += 1
            value |= (bits & 0x1F) << shift
            shift += 5
            if not bits & 0x20:
                break
        if bits & 0x10:
            value |= -1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts

"""One mask: decode it into the value of every pixel, and say what its values mean.

A value is the index of a grey or palette mask, or the colour of an RGB mask. A grey pixel of an RGB mask has the value
of its index, so (7, 7, 7) and 7 are the same; colours follow behind all indices.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..schemas.errors import DatasetError
from .images import decode_as_stored

Values = npt.NDArray[np.int32]

# why no JPEG: it changes the values along every edge.
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".pbm"})

#: A mask of more values is a photograph.
MAX_VALUES = 256

#: Value that means "no class" by custom, unless a class has it.
VOID = 255

_COLOR = 1 << 24


def decode_mask(content: bytes, name: str) -> Values:
    """Return the value of every pixel, of shape HW.

    Raises:
        DatasetError: it does not decode, or is no mask; the message starts with `name`.
    """
    image = decode_as_stored(content, name)
    if image.mode in {"1", "L", "P"} or image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)
    if image.mode not in {"LA", "RGB", "RGBA"}:
        raise DatasetError(
            f"{name} is of the mode {image.mode}, which no mask has.", hint="Save masks as grey, palette or RGB images."
        )
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.where((red == green) & (green == blue), red, _COLOR | red << 16 | green << 8 | blue).astype(np.int32)


def values_in(values_HW: Values, name: str) -> list[int]:
    """Return the values that occur, sorted.

    Raises:
        DatasetError: there are too many for a mask.
    """
    found = np.unique(values_HW)
    if len(found) > MAX_VALUES:
        raise DatasetError(
            f"{name} holds {len(found)} different values, more than the {MAX_VALUES} that a mask may have.",
            hint="Give every pixel the index or the colour of its class, and save masks as PNG.",
        )
    return [int(value) for value in found]


def color_value(red: int, green: int, blue: int) -> int:
    """Return the value of a colour of an RGB mask."""
    return red if red == green == blue else _COLOR | red << 16 | green << 8 | blue


def is_color(value: int) -> bool:
    return value >= _COLOR


def show_value(value: int) -> str:
    """Return a value as people write it: `7`, or `#ff8000` for a colour."""
    return f"#{value - _COLOR:06x}" if is_color(value) else str(value)


def show_values(values: Sequence[int], limit: int = 10) -> str:
    shown = ", ".join(map(show_value, values[:limit]))
    return shown if len(values) <= limit else f"{shown} and {len(values) - limit} more"

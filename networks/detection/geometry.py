"""How a picture is brought to the size of a network, and boxes to and fro.

Shapes: N boxes; N4 left, top, right, bottom in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]
Resizing = Literal["letterbox", "stretch"]

#: What surrounds a picture that does not fill the canvas: the grey that YOLO uses, near the mean of photographs.
PADDING = 114


@dataclass(frozen=True, slots=True)
class Fit:
    """Where a picture lies on the canvas of a network, in pixels of the canvas."""

    left: int
    top: int
    width: int
    height: int
    scale_x: float
    scale_y: float

    def to_canvas(self, boxes_N4: Floats) -> Floats:
        """Return boxes of the picture as boxes of the canvas."""
        shift, size = self._shift(), np.array([self.width, self.height] * 2, np.float32)
        # why: rounding to float32 must not push an edge off the picture.
        return np.clip(boxes_N4 * self._scale(), 0, size) + shift

    def to_picture(self, boxes_N4: Floats, size: tuple[int, int]) -> Floats:
        """Return boxes of the canvas as boxes of the picture of `size` (width, height), cut off at its edges."""
        boxes = (boxes_N4 - self._shift()) / self._scale()
        return np.clip(boxes, 0, np.array([*size, *size], np.float32))

    def _scale(self) -> Floats:
        return np.array([self.scale_x, self.scale_y] * 2, np.float32)

    def _shift(self) -> Floats:
        return np.array([self.left, self.top] * 2, np.float32)


def fit(picture: tuple[int, int], canvas: tuple[int, int], resizing: Resizing) -> Fit:
    """Return where a picture lies on a canvas, both (width, height).

    `letterbox` keeps its proportions and puts it into the middle; `stretch` fills the canvas.
    """
    width, height = canvas
    if resizing == "letterbox":
        scale = min(width / picture[0], height / picture[1])
        width = min(width, max(1, round(picture[0] * scale)))
        height = min(height, max(1, round(picture[1] * scale)))
    return Fit(
        left=(canvas[0] - width) // 2,
        top=(canvas[1] - height) // 2,
        width=width,
        height=height,
        # why: that of the rounded size, so that boxes stay on their objects to the last pixel.
        scale_x=width / picture[0],
        scale_y=height / picture[1],
    )


def visible(boxes_N4: torch.Tensor, size: tuple[int, int], at_least: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the boxes cut off at the canvas, and which of them are still worth learning.

    Those keep `at_least` of their area and a pixel in both directions.
    """
    width, height = size
    cut = torch.stack(
        [
            boxes_N4[:, 0].clamp(0.0, float(width)),
            boxes_N4[:, 1].clamp(0.0, float(height)),
            boxes_N4[:, 2].clamp(0.0, float(width)),
            boxes_N4[:, 3].clamp(0.0, float(height)),
        ],
        dim=1,
    )
    sides, before = cut[:, 2:] - cut[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]
    # why the factor: a box that was not cut must not lose its place to rounding.
    keeps = sides.prod(dim=1) >= at_least * before.prod(dim=1) * (1 - 1e-5)
    return cut, keeps & (sides >= 1.0 - 1e-4).all(dim=1)

"""Pictures of an index on the canvas of a network, with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE
from ...datasets.images import decode_rgb
from ...schemas.errors import DatasetError
from ..images import Images, Pixels
from .geometry import PADDING, Fit, Resizing, fit


@dataclass(frozen=True)
class Target:
    """The boxes of one picture. Shapes: N boxes."""

    boxes: torch.Tensor
    """N4 float32: left, top, right, bottom in pixels of the canvas."""
    labels: torch.Tensor
    """N int64: positions in the classes of the model; DONT_CARE for regions to ignore."""
    is_ignored: torch.Tensor
    """N bool: crowds and regions to ignore; finding them is neither right nor wrong."""

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, which: torch.Tensor) -> Target:
        return Target(self.boxes[which], self.labels[which], self.is_ignored[which])

    def pin_memory(self) -> Target:
        return Target(self.boxes.pin_memory(), self.labels.pin_memory(), self.is_ignored.pin_memory())

    def to(self, device: torch.device) -> Target:
        boxes, labels, is_ignored = (
            part.to(device, non_blocking=True) for part in (self.boxes, self.labels, self.is_ignored)
        )
        return Target(boxes, labels, is_ignored)


def label_map(index: BoxIndex, classes: Sequence[str], role: str) -> npt.NDArray[np.int64]:
    """Return, for each label of `index`, its position in `classes`, matched by name.

    Raises:
        DatasetError: the set has no classes, or a class with boxes that the model does not know.
    """
    if not index.classes:
        raise DatasetError(f"The {role} data set has no boxes.", hint="Use a set in kitti, coco or pascal_voc.")
    unknown = sorted(name for name, count in index.info.class_counts.items() if count and name not in classes)
    if unknown:
        raise DatasetError(
            f"The {role} data set has classes that the model does not know: {', '.join(unknown[:10])}.",
            hint=f"The model's classes are {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}.",
        )
    positions = {name: position for position, name in enumerate(classes)}
    return np.array([positions.get(name, DONT_CARE) for name in index.classes], dtype=np.int64)


def require_objects(index: BoxIndex, role: str) -> None:
    """Raise DatasetError when there is nothing to find in the pictures of an index."""
    if not ((index.box_labels != DONT_CARE) & ~index.is_ignored).any():
        raise DatasetError(
            f"The {role} data set has no boxes.", hint="Use a set in kitti, coco or pascal_voc with some objects."
        )


class Pictures(Images):
    """The pictures of an index on a canvas of `size` (width, height), with `channels` 3 for colour or 1 for grey."""

    index: BoxIndex

    def __init__(
        self,
        index: BoxIndex,
        size: tuple[int, int],
        *,
        classes: Sequence[str] | None = None,
        role: str = "training",
        channels: int = 3,
        resizing: Resizing = "letterbox",
        cache_mb: int = 1024,
    ) -> None:
        """`classes` are those of the model; None for pictures alone."""
        super().__init__(index, (channels, size[1], size[0]), cache_mb)
        self.size = size
        self.channels = channels
        self._resizing: Resizing = resizing
        self._labels = None if classes is None else label_map(index, classes, role)

    def fit(self, i: int) -> Fit:
        """Return where picture `i` lies on the canvas, to bring predictions back."""
        return fit((int(self.index.widths[i]), int(self.index.heights[i])), self.size, self._resizing)

    def target(self, i: int) -> Target:
        """Return the boxes of picture `i` on the canvas."""
        assert self._labels is not None, "the classes of the model were not given"
        rows = self.index.of(i)
        labels = self.index.box_labels[rows]
        known = np.where(labels == DONT_CARE, DONT_CARE, self._labels[labels])
        return Target(
            torch.from_numpy(self.fit(i).to_canvas(self.index.edges[rows])),
            torch.from_numpy(known),
            torch.from_numpy(self.index.is_ignored[rows].copy()),
        )

    def _decode(self, i: int) -> Pixels:
        place = self.fit(i)
        size = place.width, place.height
        image = decode_rgb(self.index.read(i), self.index.path(i), at_least=size)
        if self.channels == 1:
            image = image.convert("L")
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels).permute(2, 0, 1)
        if image.size != size:
            # why: on bytes, channels last, this takes a fifth of the time that Pillow takes for the same.
            pixels = functional.resize(pixels, [place.height, place.width], antialias=True)
        if size == self.size:
            return pixels.numpy()
        canvas = np.full((self.channels, self.size[1], self.size[0]), PADDING, np.uint8)
        canvas[:, place.top : place.top + place.height, place.left : place.left + place.width] = pixels
        return canvas

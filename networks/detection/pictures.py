"""Pictures of an index on the canvas of a network, with their boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE
from ...schemas.errors import DatasetError
from ..images import Images, Pixels, decode_at
from .geometry import PADDING, Fit, Resizing, fit
from .masks import masks_of, resize, unpack


@dataclass(frozen=True)
class Target:
    """The boxes of one picture. Shapes: N boxes."""

    boxes: torch.Tensor
    """N4 float32: left, top, right, bottom in pixels of the canvas."""
    labels: torch.Tensor
    """N int64: positions in the classes of the model; DONT_CARE for regions to ignore."""
    is_ignored: torch.Tensor
    """N bool: crowds and regions to ignore; finding them is neither right nor wrong."""
    masks: torch.Tensor | None = None
    """NHW bool: the pixels of the canvas that are the object; None for networks that learn from boxes alone."""

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, which: torch.Tensor) -> Target:
        return self._each(lambda part: part[which])

    def pin_memory(self) -> Target:
        return self._each(torch.Tensor.pin_memory)

    def to(self, device: torch.device) -> Target:
        return self._each(lambda part: part.to(device, non_blocking=True))

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Target:
        masks = None if self.masks is None else change(self.masks)
        return Target(change(self.boxes), change(self.labels), change(self.is_ignored), masks)


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


def require_masks(index: BoxIndex, role: str) -> None:
    """Raise DatasetError when an object in the pictures of an index has no mask."""
    missing = np.flatnonzero(~index.has_mask & ~index.is_ignored)
    if len(missing):
        row = int(missing[0])
        image = int(index.images[row])
        raise DatasetError(
            f"The {role} data set has objects without a mask: the first is box {row - index.of(image).start + 1} "
            f"({index.classes[index.box_labels[row]]}) of {index.path(image)}, {len(missing)} in all.",
            hint="Use a set of the type instance_segmentation, in which each object has a segmentation, or a network "
            "of object_detection.",
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
        masks: bool = False,
        cache_mb: int = 1024,
    ) -> None:
        """`classes` are those of the model; None for pictures alone. With `masks`, targets have them."""
        super().__init__(index, (channels, size[1], size[0]), cache_mb)
        self.size = size
        self.channels = channels
        self._resizing: Resizing = resizing
        self._has_masks = masks
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
            self._masks(i) if self._has_masks else None,
        )

    def _masks(self, i: int) -> torch.Tensor:
        place, (width, height) = self.fit(i), self.size
        masks = [torch.from_numpy(unpack(mask)) for mask in masks_of(self.index, i)]
        canvas = torch.zeros(len(masks), height, width, dtype=torch.bool)
        if masks:
            right, bottom = place.left + place.width, place.top + place.height
            canvas[:, place.top : bottom, place.left : right] = resize(torch.stack(masks), place.height, place.width)
        return canvas

    def _decode(self, i: int) -> Pixels:
        place = self.fit(i)
        size = place.width, place.height
        pixels = decode_at(self.index, i, size, self.channels)
        if size == self.size:
            return pixels.numpy()
        canvas = np.full((self.channels, self.size[1], self.size[0]), PADDING, np.uint8)
        canvas[:, place.top : place.top + place.height, place.left : place.left + place.width] = pixels
        return canvas

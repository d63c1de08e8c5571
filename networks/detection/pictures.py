"""Pictures of an index at the size of a network, with their boxes; decoded once when they fit into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE
from ...datasets.images import decode_rgb
from ...schemas.errors import DatasetError
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


class Pictures:
    """The pictures of an index on a canvas of `size` (width, height), with `channels` 3 for colour or 1 for grey."""

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
        self.index = index
        self.size = size
        self.channels = channels
        self._resizing: Resizing = resizing
        self._shape = channels, size[1], size[0]
        self._labels = None if classes is None else label_map(index, classes, role)
        self.is_cached = len(index) * int(np.prod(self._shape)) <= cache_mb * 2**20
        self._cache: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    def fit(self, i: int) -> Fit:
        """Return where picture `i` lies on the canvas, to bring predictions back."""
        return fit((int(self.index.widths[i]), int(self.index.heights[i])), self.size, self._resizing)

    def load(self) -> None:
        """Decode everything now, if it is to be cached: before worker processes share it."""
        if self.is_cached and self._cache is None:
            cache = torch.empty((len(self), *self._shape), dtype=torch.uint8)
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                for _ in pool.map(lambda i: self._decode(i, cache[i]), range(len(self))):
                    pass
            self._cache = cache

    def pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return pictures as a uint8 tensor of shape BCHW, the caller's own."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers, dtype=torch.int64)]
        pixels = torch.empty((len(numbers), *self._shape), dtype=torch.uint8)
        for i, canvas_CHW in zip(numbers, pixels, strict=True):
            self._decode(i, canvas_CHW)
        return pixels

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

    def batches(
        self, batch_size: int, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield numbers and pixels of all pictures (or of `numbers`) in order."""
        wanted = list(range(len(self)) if numbers is None else numbers)
        self.load()
        for start in range(0, len(wanted), batch_size):
            chunk = wanted[start : start + batch_size]
            yield chunk, self.pixels(chunk)

    def _decode(self, i: int, canvas_CHW: torch.Tensor) -> None:
        """Draw picture `i` on the canvas."""
        place = self.fit(i)
        size = place.width, place.height
        image = decode_rgb(self.index.read(i), self.index.path(i), at_least=size)
        if self.channels == 1:
            image = image.convert("L")
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, self.channels).permute(2, 0, 1)
        if image.size != size:
            # why: on bytes, channels last, this takes a fifth of the time that Pillow takes for the same.
            pixels = functional.resize(pixels, [place.height, place.width], antialias=True)
        if size != self.size:
            canvas_CHW.fill_(PADDING)
        canvas_CHW[:, place.top : place.top + place.height, place.left : place.left + place.width] = pixels

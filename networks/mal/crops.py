"""The surroundings of boxes as batches: cut out of their pictures, resized, changed alike with their boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms.v2 import functional

from ...datasets.box_index import BoxIndex
from ...schemas.errors import DatasetError
from ..detection.augmentation import Augmentation, change_colours
from ..images import EpochBatches, Images, Pixels
from ..ranks import Ranks

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """A piece of a picture, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


def window_around(box: Floats, margins: Sequence[float], picture: tuple[int, int]) -> Window:
    """Return what lies around a box, cut off at the edges of its picture (width, height).

    `margins` are those at the left, top, right and bottom, as shares of the box.
    """
    x1, y1, x2, y2 = map(float, box)
    across, down = (x2 - x1), (y2 - y1)
    left, top, right, bottom = margins
    width, height = picture
    # why one less: a box without area, or at the very edge, still has a pixel.
    first_x = min(max(0, int(np.floor(x1 - left * across))), width - 1)
    first_y = min(max(0, int(np.floor(y1 - top * down))), height - 1)
    return Window(
        first_x,
        first_y,
        max(first_x + 1, min(width, int(np.ceil(x2 + right * across)))),
        max(first_y + 1, min(height, int(np.ceil(y2 + bottom * down)))),
    )


def require_boxes(index: BoxIndex, role: str) -> None:
    """Raise DatasetError when a data set has no boxes of objects."""
    if index.is_ignored.all():
        raise DatasetError(
            f"The {role} data set has no boxes, and masks are made from boxes.",
            hint="Use a set in coco, kitti or pascal_voc with some objects; find them by a detector where none has.",
        )


def boxes_of_size(index: BoxIndex, smallest: float, largest: float) -> Ints:
    """Return the rows of the boxes of objects with so many square pixels.

    Raises:
        DatasetError: there is none.
    """
    require_boxes(index, "training")
    areas = (index.edges[:, 2:] - index.edges[:, :2]).prod(axis=1)
    rows = np.flatnonzero(~index.is_ignored & (areas >= smallest) & (areas <= largest))
    if not len(rows):
        biggest = float(areas[~index.is_ignored].max())
        raise DatasetError(
            f"No box of the training data set has {smallest:g} to {largest:g} square pixels; the largest has "
            f"{biggest:g}.",
            hint="Set dataset.min_obj_size and dataset.max_obj_size to what the boxes have; 0 takes small ones too.",
        )
    return rows


class Crops(Images):
    """The surroundings of some boxes of an index. What a number counts is a box, not a picture."""

    index: BoxIndex

    def __init__(self, index: BoxIndex, rows: Ints, size: int, cache_mb: int = 1024) -> None:
        """`rows` are those of the boxes in the index; a crop has `size` x `size` pixels."""
        super().__init__(index, (3, size, size), cache_mb=0)
        self.rows = rows
        self.size = size
        pictures = np.unique(index.images[rows])
        self._pictures = pictures.tolist()
        self.is_cached = int((index.widths[pictures] * index.heights[pictures]).sum()) * 3 <= cache_mb * 2**20
        self._decoded: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def load(self) -> None:
        if self.is_cached and not self._decoded:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                self._decoded = dict(zip(self._pictures, pool.map(self._read, self._pictures), strict=True))

    def window(self, number: int, margins: Sequence[float]) -> Window:
        row = self.rows[number]
        image = int(self.index.images[row])
        return window_around(
            self.index.edges[row], margins, (int(self.index.widths[image]), int(self.index.heights[image]))
        )

    def cut(self, numbers: Sequence[int], windows: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what is in the windows of some boxes: pixels, B3HW uint8, and boxes, BHW bool."""
        pixels = torch.empty(len(numbers), 3, self.size, self.size, dtype=torch.uint8)
        boxes = torch.zeros(len(numbers), self.size, self.size, dtype=torch.bool)
        read: dict[int, Pixels] = {}
        for k, (number, window) in enumerate(zip(numbers, windows, strict=True)):
            image = int(self.index.images[self.rows[number]])
            picture = self._decoded.get(image)
            if picture is None:
                picture = read[image] = read[image] if image in read else self._read(image)
            piece = torch.from_numpy(picture[window.slices]).permute(2, 0, 1)
            pixels[k] = functional.resize(piece, [self.size, self.size], antialias=True)
            boxes[k][self._inside(number, window)] = True
        return pixels, boxes

    def _inside(self, number: int, window: Window) -> tuple[slice, slice]:
        """Return where the box is in its crop: a pixel at least."""
        x1, y1, x2, y2 = map(float, self.index.edges[self.rows[number]])
        height, width = window.size
        spans = ((y1 - window.top, y2 - window.top, height), (x1 - window.left, x2 - window.left, width))
        rows, columns = (self._span(low, high, length) for low, high, length in spans)
        return rows, columns

    def _span(self, low: float, high: float, length: int) -> slice:
        scale = self.size / length
        first = min(max(0, round(low * scale)), self.size - 1)
        return slice(first, max(first + 1, min(self.size, round(high * scale))))

    def _read(self, image: int) -> Pixels:
        return np.array(self.index.image(image))


@dataclass(frozen=True)
class Batch:
    """`pixels` 0 to 255, B3HW uint8; `boxes` BHW bool."""

    pixels: torch.Tensor
    boxes: torch.Tensor

    def pin_memory(self) -> Batch:
        return Batch(self.pixels.pin_memory(), self.boxes.pin_memory())


class TrainingBatches(EpochBatches[Batch]):
    """Crops with margins at random, changed at random."""

    images: Crops

    def __init__(
        self,
        crops: Crops,
        batch_size: int,
        *,
        margins: tuple[float, float],
        augmentation: Augmentation,
        seed: int,
        ranks: Ranks,
        workers: int,
    ) -> None:
        super().__init__(crops, batch_size, workers, seed, ranks)
        self._margins = margins
        self._augmentation = augmentation

    def make(self, numbers: torch.Tensor) -> Batch:
        chosen = numbers.tolist()
        least, most = self._margins
        margins = (least + (most - least) * torch.rand(len(chosen), 4)).tolist()
        windows = [self.images.window(number, sides) for number, sides in zip(chosen, margins, strict=True)]
        pixels, boxes = self.images.cut(chosen, windows)
        is_flipped = torch.rand(len(chosen)) < self._augmentation.flip
        pixels[is_flipped], boxes[is_flipped] = pixels[is_flipped].flip(-1), boxes[is_flipped].flip(-1)
        if self._augmentation.changes_colour:
            pixels = change_colours(pixels, self._augmentation)
        return Batch(pixels, boxes)

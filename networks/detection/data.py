"""Training batches of pictures with boxes, in an order and with changes that depend on the seed alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..images import EpochBatches
from ..ranks import Ranks
from .augmentation import Augmentation, Example, augment
from .pictures import Pictures, Target


@dataclass(frozen=True)
class Batch:
    """`pixels` 0 to 255, BCHW uint8; a target for each picture; `numbers` of the pictures in the index."""

    pixels: torch.Tensor
    targets: list[Target]
    numbers: list[int]

    def pin_memory(self) -> Batch:
        return Batch(self.pixels.pin_memory(), [target.pin_memory() for target in self.targets], self.numbers)

    def to(self, device: torch.device) -> Batch:
        pixels = self.pixels.to(device, non_blocking=True)
        return Batch(pixels, [target.to(device) for target in self.targets], self.numbers)


class TrainingBatches(EpochBatches[Batch]):
    """Augmented pictures with their boxes."""

    images: Pictures

    def __init__(
        self,
        pictures: Pictures,
        batch_size: int,
        *,
        augmentation: Augmentation,
        seed: int,
        ranks: Ranks,
        workers: int = 0,
    ) -> None:
        super().__init__(pictures, batch_size, workers, seed, ranks)
        self._augmentation = augmentation

    def make(self, numbers: torch.Tensor) -> Batch:
        chosen = numbers.tolist()
        targets = [self.images.target(i) for i in chosen]
        pixels, targets = augment(self.images.pixels(chosen), targets, self._augmentation, self._draw)
        return Batch(pixels, targets, chosen)

    def _draw(self, count: int) -> list[Example]:
        numbers = torch.randint(len(self.images), (count,)).tolist()
        pixels = self.images.pixels(numbers)
        return [(pixels[k], self.images.target(i)) for k, i in enumerate(numbers)]

"""Training batches of pictures with boxes, in an order and with changes that depend on the seed alone."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

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


class TrainingBatches(Dataset[Batch]):
    """The batches of one rank, each a function of seed, epoch, step and rank.

    So training goes on at any step, with any number of worker processes, exactly as it would have.
    """

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
        self._pictures = pictures
        self._batch_size = batch_size
        self._augmentation = augmentation
        self._seed = seed
        self._ranks = ranks
        self._workers = workers
        total = batch_size * ranks.world
        full, rest = divmod(len(pictures), total)
        # why: batch norm cannot learn from one image, so a rest that would leave a rank with less than two waits
        # for another epoch, when it will be other images.
        self.steps = full + (1 if rest >= 2 * ranks.world or full == 0 else 0)
        self._epoch_order: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, step = place
        numbers = self._numbers(epoch, step).tolist()
        with _own_randomness(self._seed, epoch, step, self._ranks.rank):
            pixels, targets = augment(
                self._pictures.pixels(numbers),
                [self._pictures.target(i) for i in numbers],
                self._augmentation,
                self._draw,
            )
        return Batch(pixels, targets, numbers)

    def epoch(self, epoch: int, start: int, pin_memory: bool) -> Iterator[Batch]:
        """Yield the batches of `epoch` from step `start`."""
        places = [(epoch, step) for step in range(start, self.steps)]
        self._pictures.load()
        if self._workers == 0:
            return (self[place] for place in places)
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=places,
            num_workers=self._workers,
            pin_memory=pin_memory,
            # why: fork shares the cache, and the start method that this process inherited may be a server that
            # knows nothing of it.
            multiprocessing_context=multiprocessing.get_context("fork"),
            # why: without its own generator the loader draws from the global one, and a resumed training would see
            # other random numbers.
            generator=torch.Generator(),
        )
        return iter(loader)

    def _draw(self, count: int) -> list[Example]:
        numbers = torch.randint(len(self._pictures), (count,)).tolist()
        pixels = self._pictures.pixels(numbers)
        return [(pixels[k], self._pictures.target(i)) for k, i in enumerate(numbers)]

    def _numbers(self, epoch: int, step: int) -> torch.Tensor:
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed(_mixed(self._seed, epoch))
            self._epoch_order = epoch, torch.randperm(len(self._pictures), generator=generator)
        order, world = self._epoch_order[1], self._ranks.world
        chunk = order[step * self._batch_size * world :][: self._batch_size * world]
        if world > 1:
            # why: every rank needs the same number of images in a step, at least two.
            wanted = max(2, -(-len(chunk) // world)) * world
            chunk = chunk.repeat(-(-wanted // len(chunk)))[:wanted]
        elif len(chunk) == 1:
            chunk = chunk.repeat(2)
        return chunk[self._ranks.rank :: world]


def _mixed(*numbers: int) -> int:
    """Return a seed that depends on all `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextlib.contextmanager
def _own_randomness(*numbers: int) -> Iterator[None]:
    """Give the block random numbers that depend on `numbers` alone, and leave the global ones as they were."""
    before = torch.get_rng_state()
    # why: torch.manual_seed would seed the GPUs as well.
    torch.default_generator.manual_seed(_mixed(*numbers))
    try:
        yield
    finally:
        torch.set_rng_state(before)

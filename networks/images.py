"""Images of an index as batches: resized, cached, in an order that depends on the seed alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional

from ..datasets.images import decode_rgb
from ..datasets.index import ImageIndex
from .ranks import Ranks

Pixels = npt.NDArray[np.uint8]

#: Images of at most so many numbers are augmented faster here than they are fetched from a worker process.
_SMALL_IMAGE = 3 * 64 * 64

#: Where a batch stands: the pass over the data, from 1, and the step in it, from 0.
Place = tuple[int, int]

B = TypeVar("B")


class Images:
    """The images of an index at the size of a network, decoded once when they fit into `cache_mb`."""

    def __init__(self, index: ImageIndex, shape: tuple[int, int, int], cache_mb: int = 1024) -> None:
        """`shape` is channels, height, width."""
        self.index = index
        self._shape = shape
        self.is_cached = len(index) * int(np.prod(shape)) <= cache_mb * 2**20
        self._cache: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_small(self) -> bool:
        return int(np.prod(self._shape)) <= _SMALL_IMAGE

    def load(self) -> None:
        """Decode everything now, if it is to be cached: before worker processes share it."""
        if self.is_cached and self._cache is None:
            self._cache = decode_all(self._decode, len(self), self._shape)

    def pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return the images as a uint8 tensor of shape BCHW."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers, dtype=torch.int64)]
        return torch.from_numpy(np.stack([self._decode(i) for i in numbers]))

    def _decode(self, i: int) -> Pixels:
        channels, height, width = self._shape
        pixels: Pixels = decode_at(self.index, i, (width, height), channels).numpy()
        return pixels

    def batches(
        self, batch_size: int, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield numbers and pixels of all images (or of `numbers`) in order."""
        wanted = list(range(len(self)) if numbers is None else numbers)
        self.load()
        for start in range(0, len(wanted), batch_size):
            chunk = wanted[start : start + batch_size]
            yield chunk, self.pixels(chunk)


def decode_at(index: ImageIndex, i: int, size: tuple[int, int], channels: int) -> torch.Tensor:
    """Return image `i` in `size` (width, height) as a uint8 tensor of shape CHW; 1 channel is grey."""
    image = decode_rgb(index.read(i), index.path(i), at_least=size)
    if channels == 1:
        image = image.convert("L")
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels).permute(2, 0, 1)
    if image.size != size:
        # why: on bytes, channels last, this takes a fifth of the time that Pillow takes for the same.
        pixels = functional.resize(pixels, [size[1], size[0]], antialias=True)
    return pixels


def decode_all(decode: Callable[[int], Pixels], count: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return what `decode` gives for all numbers below `count`, as one tensor."""
    cache = np.empty((count, *shape), np.uint8)

    def fill(i: int) -> None:
        cache[i] = decode(i)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(count)):
            pass
    return torch.from_numpy(cache)


def input_size(index: ImageIndex, largest: int) -> tuple[int, int]:
    """Return width and height for a network: the images' median, as a multiple of 32 from 32 to `largest`."""

    def fit(sizes: npt.NDArray[np.int64]) -> int:
        return int(np.clip(np.ceil(np.median(sizes) / 32) * 32, 32, largest))

    return fit(index.widths), fit(index.heights)


def written_names(index: ImageIndex, suffix: str) -> list[str]:
    """Return the name of a file to write for each image: as the image, below `images` if it lies there."""
    paths = [index.path(i).removeprefix("images/") for i in range(len(index))]
    plain = [f"{path.rpartition('.')[0]}{suffix}" for path in paths]
    # why: of a.jpg and a.bmp side by side one would be written over the other.
    return plain if len(set(plain)) == len(plain) else [f"{path}{suffix}" for path in paths]


class EpochBatches(Dataset[B], Generic[B]):
    """The training batches of one rank, each a function of seed, pass over the data, step and rank.

    So training goes on at any step, with any number of worker processes, exactly as it would have.
    A family says in `make` what a batch is.
    """

    def __init__(self, images: Images, batch_size: int, workers: int, seed: int, ranks: Ranks) -> None:
        self.images = images
        self._seed = seed
        self._ranks = ranks
        self._batch_size = batch_size
        # why: small cached images are quicker to augment than to send from another process.
        self._workers = 0 if images.is_cached and images.is_small else workers
        total = batch_size * ranks.world
        full, rest = divmod(len(images), total)
        # why: batch norm cannot learn from one image, so a rest that would leave a rank with less than two waits
        # for another epoch, when it will be other images.
        self.steps = full + (1 if rest >= 2 * ranks.world or full == 0 else 0)
        self._epoch_order: tuple[int, torch.Tensor] | None = None

    def make(self, numbers: torch.Tensor) -> B:
        """Return the batch of the images `numbers`. Random numbers here are the batch's own."""
        raise NotImplementedError

    def load(self) -> None:
        """Read what worker processes are to share."""
        self.images.load()

    def __getitem__(self, place: Place) -> B:
        epoch, step = place
        with _own_randomness(self._seed, epoch, step, self._ranks.rank):
            return self.make(self._numbers(epoch, step))

    def epoch(self, epoch: int, start: int, pin_memory: bool) -> Iterator[B]:
        """Yield the batches of `epoch` from step `start`."""
        return self.at([(epoch, step) for step in range(start, self.steps)], pin_memory)

    def at(self, places: Sequence[Place], pin_memory: bool) -> Iterator[B]:
        """Yield the batches of `places`."""
        self.load()
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

    def _numbers(self, epoch: int, step: int) -> torch.Tensor:
        if self._epoch_order is None or self._epoch_order[0] != epoch:
            generator = torch.Generator().manual_seed(_mixed(self._seed, epoch))
            self._epoch_order = epoch, torch.randperm(len(self.images), generator=generator)
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

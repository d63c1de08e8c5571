"""Images of an index as batches: resized, cached, augmented, in an order that depends on the seed alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ...datasets.index import ImageIndex
from ...schemas.errors import DatasetError
from ..ranks import Ranks
from .model import Record
from .spec import Augmentation, TrainDataset

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

#: Images of at most so many numbers are augmented faster here than they are fetched from a worker process.
_SMALL_IMAGE = 3 * 64 * 64


class Images:
    """The images of an index at the size of a network, decoded once when they fit into `cache_mb`."""

    def __init__(self, index: ImageIndex, record: Record, cache_mb: int = 1024) -> None:
        self.index = index
        self._shape = record.shape
        self.is_cached = len(index) * int(np.prod(self._shape)) <= cache_mb * 2**20
        self._cache: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def is_small(self) -> bool:
        return int(np.prod(self._shape)) <= _SMALL_IMAGE

    def load(self) -> None:
        """Decode everything now, if it is to be cached: before worker processes share it."""
        if self.is_cached and self._cache is None:
            cache = np.empty((len(self), *self._shape), np.uint8)

            def fill(i: int) -> None:
                cache[i] = self._decode(i)

            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                for _ in pool.map(fill, range(len(self))):
                    pass
            self._cache = torch.from_numpy(cache)

    def pixels(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return the images as a uint8 tensor of shape BCHW."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers, dtype=torch.int64)]
        return torch.from_numpy(np.stack([self._decode(i) for i in numbers]))

    def _decode(self, i: int) -> Pixels:
        channels, height, width = self._shape
        image = self.index.image(i)
        if channels == 1:
            image = image.convert("L")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)

    def batches(
        self, batch_size: int, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield numbers and pixels of all images (or of `numbers`) in order."""
        wanted = list(range(len(self)) if numbers is None else numbers)
        self.load()
        for start in range(0, len(wanted), batch_size):
            chunk = wanted[start : start + batch_size]
            yield chunk, self.pixels(chunk)


def input_size(index: ImageIndex) -> tuple[int, int]:
    """Return width and height for a network: the images' median, as a multiple of 32 from 32 to 224."""

    def fit(sizes: npt.NDArray[np.int64]) -> int:
        return int(np.clip(np.ceil(np.median(sizes) / 32) * 32, 32, 224))

    return fit(index.widths), fit(index.heights)


def class_weights(spec: TrainDataset, labels: Labels, classes: list[str]) -> torch.Tensor | None:
    """Return the weights of the classes in the loss, with mean 1 over the images, or None for equal ones.

    Raises:
        DatasetError: a weight is given for a class that the data does not have.
    """
    counts = np.bincount(labels, minlength=len(classes)).astype(np.float64)
    match spec.class_weighting:
        case "none":
            return None
        case "balanced":
            weights = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
        case "explicit":
            unknown = sorted(set(spec.class_weights) - set(classes))
            if unknown:
                raise DatasetError(
                    f"dataset.class_weights names classes that the data does not have: {', '.join(unknown)}.",
                    hint=f"The classes are {', '.join(classes[:20])}.",
                )
            weights = np.array([spec.class_weights.get(name, 1.0) for name in classes])
    mean = float((weights * counts).sum() / counts.sum())
    if mean <= 0:
        raise DatasetError("dataset.class_weights gives every image the weight 0.", hint="Give one class a weight.")
    return torch.tensor(weights / mean, dtype=torch.float32)


def augmentations(spec: Augmentation, record: Record) -> v2.Transform | None:
    """Return what is done to each image, a uint8 tensor CHW, or None for nothing."""
    steps: list[v2.Transform] = []
    match spec.policy:
        case "randaugment":
            steps.append(v2.RandAugment())
        case "trivialaugment":
            steps.append(v2.TrivialAugmentWide())
        case "none":
            pass
    if spec.crop_min_scale < 1:
        size = (record.height, record.width)
        steps.append(v2.RandomResizedCrop(size, scale=(spec.crop_min_scale, 1.0), ratio=(0.8, 1.25), antialias=True))
    if spec.rotation > 0 or spec.translation > 0:
        shift = (spec.translation, spec.translation) if spec.translation > 0 else None
        steps.append(v2.RandomAffine(spec.rotation, translate=shift, interpolation=v2.InterpolationMode.BILINEAR))
    if spec.horizontal_flip > 0:
        steps.append(v2.RandomHorizontalFlip(spec.horizontal_flip))
    if spec.vertical_flip > 0:
        steps.append(v2.RandomVerticalFlip(spec.vertical_flip))
    if max(spec.brightness, spec.contrast, spec.saturation, spec.hue) > 0:
        steps.append(v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue))
    if spec.erasing > 0:
        steps.append(v2.RandomErasing(spec.erasing))
    return v2.Compose(steps) if steps else None


def mixing(spec: Augmentation, classes: int) -> v2.Transform | None:
    """Return what is done to a whole batch with its labels, or None for nothing."""
    steps: list[v2.Transform] = []
    if spec.mixup_alpha > 0:
        steps.append(v2.MixUp(alpha=spec.mixup_alpha, num_classes=classes))
    if spec.cutmix_alpha > 0:
        steps.append(v2.CutMix(alpha=spec.cutmix_alpha, num_classes=classes))
    return v2.RandomChoice(steps) if steps else None


@dataclass(frozen=True)
class Batch:
    """`pixels` 0 to 255, BCHW; `targets` class numbers, or probabilities when labels were mixed."""

    pixels: torch.Tensor
    targets: torch.Tensor

    def pin_memory(self) -> Batch:
        return Batch(self.pixels.pin_memory(), self.targets.pin_memory())


class TrainingBatches(Dataset[Batch]):
    """The batches of one rank, each a function of seed, epoch, step and rank.

    So training goes on at any step, with any number of worker processes, exactly as it would have.
    """

    def __init__(
        self, images: Images, labels: Labels, spec: TrainDataset, record: Record, seed: int, ranks: Ranks
    ) -> None:
        self._images = images
        self._labels = torch.from_numpy(labels)
        self._augment = augmentations(spec.augmentation, record)
        self._mix = mixing(spec.augmentation, len(record.classes))
        self._seed = seed
        self._ranks = ranks
        self._batch_size = spec.batch_size
        # why: small cached images are quicker to augment than to send from another process.
        self._workers = 0 if images.is_cached and images.is_small else spec.workers
        total = spec.batch_size * ranks.world
        full, rest = divmod(len(images), total)
        # why: batch norm cannot learn from one image, so a rest that would leave a rank with less than two waits
        # for another epoch, when it will be other images.
        self.steps = full + (1 if rest >= 2 * ranks.world or full == 0 else 0)
        self._epoch_order: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, place: tuple[int, int]) -> Batch:
        epoch, step = place
        numbers = self._numbers(epoch, step)
        pixels, targets = self._images.pixels(numbers.tolist()), self._labels[numbers]
        with _own_randomness(self._seed, epoch, step, self._ranks.rank):
            if self._augment is not None:
                pixels = torch.stack([self._augment(image) for image in pixels])
            if self._mix is not None:
                pixels, targets = self._mix(pixels.float(), targets)
        return Batch(pixels, targets)

    def epoch(self, epoch: int, start: int, pin_memory: bool) -> Iterator[Batch]:
        """Yield the batches of `epoch` from step `start`."""
        places = [(epoch, step) for step in range(start, self.steps)]
        self._images.load()
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
            self._epoch_order = epoch, torch.randperm(len(self._images), generator=generator)
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

"""Images with their label maps as batches: resized, cached, augmented alike.

A label map holds the number of the class of every pixel; 255 counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...datasets.index import ImageIndex
from ...datasets.mask_classes import IGNORED, MaskClasses, ValueClass, classes_of_masks, require_two_mask_classes
from ...datasets.mask_index import MaskIndex
from ...schemas.errors import DatasetError
from ..images import EpochBatches, Images, Pixels, decode_all
from ..ranks import Ranks
from .model import Record
from .spec_parts import Augmentation


def masks_of(index: ImageIndex, role: str) -> MaskIndex:
    """Return the masks of a data set; DatasetError when it has none."""
    masks = index.masks()
    if masks is None:
        raise DatasetError(
            f"The {role} data set has no masks.", hint="Use a data set of the format unet: images/ and masks/."
        )
    return masks


def classes_for_training(masks: MaskIndex, listed: Sequence[ValueClass]) -> MaskClasses:
    """Return the classes of the training data: those of the spec, else those that the data set has itself.

    Raises:
        DatasetError: a mask has a value of no class, with its name; or only one class occurs.
    """
    values = masks.values()
    found = classes_of_masks(values, listed) if listed else masks.classes
    require_two_mask_classes(found.counts(values))
    return found


class LabelMaps:
    """The label maps of an index at the size of a network, decoded once when they fit into `cache_mb`."""

    def __init__(self, masks: MaskIndex, record: Record, cache_mb: int) -> None:
        record.masks.check(masks.values())
        self._masks = masks
        self._classes = record.masks
        self._size = record.width, record.height
        self._is_cached = len(masks) * record.width * record.height <= cache_mb * 2**20
        self._cache: torch.Tensor | None = None

    def load(self) -> None:
        """Decode everything now, if it is to be cached: before worker processes share it."""
        if self._is_cached and self._cache is None:
            self._cache = decode_all(self._decode, len(self._masks), self._size[::-1])

    def labels(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return label maps as a uint8 tensor of shape BHW."""
        if self._cache is not None:
            return self._cache[torch.as_tensor(numbers, dtype=torch.int64)]
        return torch.from_numpy(np.stack([self._decode(i) for i in numbers]))

    def _decode(self, i: int) -> Pixels:
        labels = Image.fromarray(self._classes.label_map(self._masks.mask(i)))
        if labels.size != self._size:
            labels = labels.resize(self._size, Image.Resampling.NEAREST)
        return np.asarray(labels)


def augmentations(spec: Augmentation, record: Record) -> v2.Transform | None:
    """Return what is done to an image and its label map together, or None for nothing."""
    steps: list[v2.Transform] = []
    if spec.crop_min_scale < 1:
        size = (record.height, record.width)
        steps.append(v2.RandomResizedCrop(size, scale=(spec.crop_min_scale, 1.0), ratio=(0.8, 1.25), antialias=True))
    if spec.rotation > 0:
        # why: what turns into the picture from outside is of no class.
        fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
        steps.append(v2.RandomRotation(spec.rotation, interpolation=v2.InterpolationMode.BILINEAR, fill=fill))
    if spec.horizontal_flip > 0:
        steps.append(v2.RandomHorizontalFlip(spec.horizontal_flip))
    if spec.vertical_flip > 0:
        steps.append(v2.RandomVerticalFlip(spec.vertical_flip))
    if max(spec.brightness, spec.contrast, spec.saturation, spec.hue) > 0:
        steps.append(v2.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue))
    return v2.Compose(steps) if steps else None


@dataclass(frozen=True)
class Batch:
    """`pixels` 0 to 255, BCHW; `labels` BHW."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def pin_memory(self) -> Batch:
        return Batch(self.pixels.pin_memory(), self.labels.pin_memory())


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    batch_size: int
    workers: int
    seed: int
    augmentation: Augmentation


class TrainingBatches(EpochBatches[Batch]):
    """Augmented images with their label maps."""

    def __init__(
        self, images: Images, label_maps: LabelMaps, options: BatchOptions, record: Record, ranks: Ranks
    ) -> None:
        super().__init__(images, options.batch_size, options.workers, options.seed, ranks)
        self._label_maps = label_maps
        self._augment = augmentations(options.augmentation, record)

    def load(self) -> None:
        super().load()
        self._label_maps.load()

    def make(self, numbers: torch.Tensor) -> Batch:
        chosen = numbers.tolist()
        pixels, labels = self.images.pixels(chosen), self._label_maps.labels(chosen)
        if self._augment is None:
            return Batch(pixels, labels)
        pairs = [
            self._augment(tv_tensors.Image(image), tv_tensors.Mask(label))
            for image, label in zip(pixels, labels, strict=True)
        ]
        return Batch(
            torch.stack([image.as_subclass(torch.Tensor) for image, _ in pairs]),
            torch.stack([label.as_subclass(torch.Tensor) for _, label in pairs]),
        )

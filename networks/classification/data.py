"""Labels, weights of classes and augmented batches of a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import v2

from ...schemas.errors import DatasetError
from ..images import EpochBatches, Images
from ..ranks import Ranks
from .model import Record
from .spec import Augmentation, TrainDataset

Labels = npt.NDArray[np.int64]


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


class TrainingBatches(EpochBatches[Batch]):
    """Augmented images with their labels."""

    def __init__(
        self, images: Images, labels: Labels, spec: TrainDataset, record: Record, seed: int, ranks: Ranks
    ) -> None:
        super().__init__(images, spec.batch_size, spec.workers, seed, ranks)
        self._labels = torch.from_numpy(labels)
        self._augment = augmentations(spec.augmentation, record)
        self._mix = mixing(spec.augmentation, len(record.classes))

    def make(self, numbers: torch.Tensor) -> Batch:
        pixels, targets = self.images.pixels(numbers.tolist()), self._labels[numbers]
        if self._augment is not None:
            pixels = torch.stack([self._augment(image) for image in pixels])
        if self._mix is not None:
            pixels, targets = self._mix(pixels.float(), targets)
        return Batch(pixels, targets)

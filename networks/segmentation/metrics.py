"""Losses, and numbers that say how good a segmentation is.

Shape legend: B batch, C class, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from ...datasets.mask_classes import IGNORED

Ints = npt.NDArray[np.int64]

LossName = Literal["cross_entropy", "cross_dice_sum", "dice"]


def loss_of(logits_BCHW: torch.Tensor, labels_BHW: torch.Tensor, kind: LossName) -> torch.Tensor:
    """Return the mean loss over the pixels that have a class; 0 where none has."""
    labels = labels_BHW.long()
    if kind == "cross_entropy":
        return _cross_entropy(logits_BCHW, labels)
    dice = _dice(logits_BCHW, labels)
    return dice if kind == "dice" else _cross_entropy(logits_BCHW, labels) + dice


def _cross_entropy(logits_BCHW: torch.Tensor, labels_BHW: torch.Tensor) -> torch.Tensor:
    # why as a list of pixels: on GPUs the loss of planes has no algorithm with equal results.
    logits_NC = logits_BCHW.float().permute(0, 2, 3, 1).reshape(-1, logits_BCHW.shape[1])
    # why not the mean of torch: it is no number for a batch in which all pixels are ignored.
    total = F.cross_entropy(logits_NC, labels_BHW.reshape(-1), ignore_index=IGNORED, reduction="sum")
    return total / (labels_BHW != IGNORED).sum().clamp(min=1)


def _dice(logits_BCHW: torch.Tensor, labels_BHW: torch.Tensor) -> torch.Tensor:
    """Return 1 minus the mean soft Dice coefficient of the classes that occur in the batch."""
    counted = (labels_BHW != IGNORED)[:, None]
    shares = logits_BCHW.float().softmax(1) * counted
    truth = F.one_hot(labels_BHW.masked_fill(labels_BHW == IGNORED, 0), logits_BCHW.shape[1])
    truth = truth.permute(0, 3, 1, 2) * counted
    overlap, size = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    occurs = truth.sum((0, 2, 3)) > 0
    scores = 2 * overlap / size.clamp(min=1e-6)
    return 1 - (scores * occurs).sum() / occurs.sum().clamp(min=1)


def confusion_of(predicted_BHW: torch.Tensor, labels_BHW: torch.Tensor, classes: int) -> torch.Tensor:
    """Return how many pixels of each true class (rows) got each class (columns)."""
    counted = labels_BHW != IGNORED
    pairs = labels_BHW[counted].long() * classes + predicted_BHW[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


@dataclass(frozen=True)
class Scores:
    kpi: dict[str, float]
    per_class: dict[str, dict[str, float]]
    """Class name to IoU, accuracy, dice and pixels."""


def score(confusion_CC: Ints, loss: float, classes: list[str]) -> Scores:
    """Return all metrics. Means are over the classes that are somewhere, in the truth or in the prediction."""
    hits = confusion_CC.diagonal().astype(np.float64)
    truth, guesses = confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    count = len(classes)

    def share(part: npt.NDArray[np.float64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.divide(part, whole, out=np.zeros(count), where=whole > 0)

    iou, dice = share(hits, truth + guesses - hits.astype(np.int64)), share(2 * hits, truth + guesses)
    accuracy = share(hits, truth)
    occurs = truth + guesses > 0
    kpi = {
        "mIoU": _mean(iou[occurs]),
        "pixel_accuracy": float(hits.sum() / max(1, truth.sum())),
        "mean_accuracy": _mean(accuracy[truth > 0]),
        "mean_dice": _mean(dice[occurs]),
        "loss": loss,
    }
    per_class = {
        name: {
            "IoU": float(iou[i]),
            "accuracy": float(accuracy[i]),
            "dice": float(dice[i]),
            "pixels": float(truth[i]),
        }
        for i, name in enumerate(classes)
    }
    return Scores(kpi, per_class)


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0

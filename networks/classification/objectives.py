"""What training minimises and measures: the classes of images, or those of several tasks at once."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional as F

from .heads import UNKNOWN, heads_of
from .model import Record


class Objective(Protocol):
    def loss(self, logits_BC: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch."""

    def sums(self, logits_BC: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return sums over a batch, which can be added up over batches and processes."""

    def metrics(self, sums: list[float]) -> dict[str, float]:
        """Return the metrics of everything that `sums` is of."""


class ClassObjective:
    """One class per image."""

    def __init__(self, record: Record, weights: torch.Tensor | None, smoothing: float) -> None:
        self._weights = weights
        self._smoothing = smoothing
        self._has_five = len(record.classes) > 5

    def loss(self, logits_BC: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits_BC, targets, self._weights, label_smoothing=self._smoothing)

    def sums(self, logits_BC: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(4, dtype=torch.float64, device=logits_BC.device)
        sums[0] = F.cross_entropy(logits_BC, target_B, reduction="sum")
        sums[1] = (logits_BC.argmax(1) == target_B).sum()
        if self._has_five:
            sums[2] = (logits_BC.topk(5, 1).indices == target_B[:, None]).sum()
        sums[3] = len(target_B)
        return sums

    def metrics(self, sums: list[float]) -> dict[str, float]:
        loss, top_1, top_5, count = sums
        metrics = {"loss": loss / count, "accuracy_top-1": top_1 / count}
        return metrics | {"accuracy_top-5": top_5 / count} if self._has_five else metrics


class TaskObjective:
    """A class per image and task, of which some may be unknown. Every task weighs the same."""

    def __init__(self, record: Record, smoothing: float) -> None:
        self._heads = heads_of(record)
        self._smoothing = smoothing

    def loss(self, logits_BC: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        losses = []
        for column, head in enumerate(self._heads):
            target_B = targets_BT[:, column]
            loss = F.cross_entropy(
                logits_BC[:, head.start : head.stop],
                target_B,
                label_smoothing=self._smoothing,
                ignore_index=UNKNOWN,
                reduction="sum",
            )
            # why: a batch may know nothing of a task.
            losses.append(loss / (target_B != UNKNOWN).sum().clamp(min=1))
        return torch.stack(losses).mean()

    def sums(self, logits_BC: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        """Return loss, right ones and known ones of each task."""
        rows = []
        for column, head in enumerate(self._heads):
            logits, target_B = logits_BC[:, head.start : head.stop], targets_BT[:, column]
            loss = F.cross_entropy(logits, target_B, reduction="sum", ignore_index=UNKNOWN)
            rows += [loss.double(), (logits.argmax(1) == target_B).sum().double(), (target_B != UNKNOWN).sum().double()]
        return torch.stack(rows)

    def metrics(self, sums: list[float]) -> dict[str, float]:
        losses, accuracies = [], {}
        for column, head in enumerate(self._heads):
            loss, right, known = sums[3 * column : 3 * column + 3]
            if known:
                losses.append(loss / known)
                accuracies[f"accuracy.{head.task}"] = right / known
        return {
            "loss": sum(losses) / len(losses),
            "accuracy_top-1": sum(accuracies.values()) / len(accuracies),
            **accuracies,
        }

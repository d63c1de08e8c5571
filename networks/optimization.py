"""Optimizers and learning rate schedules, the same for all families."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, kind: Literal["adamw", "adam", "sgd"], *, lr: float, weight_decay: float, momentum: float
) -> torch.optim.Optimizer:
    """Return the optimizer; biases, norms and other vectors get no weight decay."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    match kind:
        case "adamw":
            return torch.optim.AdamW(groups, lr=lr, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=lr, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of the step, so that it has no state to save."""

    policy: Literal["cosine", "step", "constant", "poly"]
    peak: float
    steps_per_epoch: int
    max_epochs: int
    warmup_epochs: float = 0.0
    min_ratio: float = 0.0
    warmup_steps: int = 0
    """The longer one of the two warm-ups counts."""
    step_epochs: tuple[int, ...] = ()
    gamma: float = 0.1
    drops: tuple[tuple[int, float], ...] = ()
    """Steps, rising, and the share of the peak from each of them on; they win over `step_epochs`."""

    def lr(self, step: int) -> float:
        """Return the rate for step `step`, counted from 0 over all epochs."""
        total = self.max_epochs * self.steps_per_epoch
        # why: a warm-up longer than half of a short training would leave nothing of it.
        warmup = min(max(self.warmup_epochs * self.steps_per_epoch, self.warmup_steps), total / 2)
        if step < warmup:
            return self.peak * (step + 1) / (warmup + 1)
        match self.policy:
            case "constant":
                return self.peak
            case "step" if self.drops:
                return self.peak * next((share for start, share in reversed(self.drops) if step >= start), 1.0)
            case "step":
                drops = self.step_epochs or (round(0.6 * self.max_epochs), round(0.85 * self.max_epochs))
                passed = sum(step >= epoch * self.steps_per_epoch for epoch in drops)
                return self.peak * self.gamma**passed
            case "poly":
                return self.peak * max(self.min_ratio, 1 - (step - warmup) / max(1.0, total - warmup))
            case "cosine":
                done = min(1.0, (step - warmup) / max(1.0, total - warmup))
                return self.peak * (self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * done)) / 2)

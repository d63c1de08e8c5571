"""Which candidates of a network are told: one answer for weights, graphs and engines of all detectors.

Shapes: N candidates of a picture, K classes, M boxes that are told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torchvision.ops import batched_nms

#: So many pairs of a candidate and a class, the surest, are looked at. Duplicates lie among the surest.
_LOOKED_AT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    score: float = 0.01
    """Least score of a box."""
    iou: float = 0.5
    """Of two boxes of one class that overlap more, the surer one stays."""
    boxes: int = 100
    """Boxes of a picture at most."""


class Selection(NamedTuple):
    boxes: torch.Tensor
    """M4."""
    scores: torch.Tensor
    """M."""
    labels: torch.Tensor
    """M."""
    candidates: torch.Tensor
    """M: the candidate of each box."""


def select(boxes_N4: torch.Tensor, scores_NK: torch.Tensor, how: Literal["nms", "top_k"], limits: Limits) -> Selection:
    """Return what is told of a picture, the surest first. `how` is `Detector.selection`."""
    classes = scores_NK.shape[1]
    flat = scores_NK.flatten()
    sure = (flat >= limits.score).nonzero()[:, 0]
    scores, order = flat[sure].sort(descending=True, stable=True)
    scores, pairs = scores[:_LOOKED_AT], sure[order[:_LOOKED_AT]]
    candidates, labels = pairs // classes, pairs % classes
    kept: torch.Tensor | slice = slice(None)
    if how == "nms":
        kept = batched_nms(boxes_N4[candidates].float(), scores.float(), labels, limits.iou)
    candidates, scores, labels = (part[kept][: limits.boxes] for part in (candidates, scores, labels))
    return Selection(boxes_N4[candidates], scores, labels, candidates)

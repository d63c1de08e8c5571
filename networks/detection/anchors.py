"""Detectors that move and name default boxes: what is learned by which, and how codes become boxes.

Shapes: B pictures, N default boxes, M boxes of a picture, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_area, box_iou

from .pictures import Target

#: A code stretches a box at most so many times: larger ones come from noise and would overflow.
_LARGEST = math.log(1000.0 / 16)

#: A default box of which this share lies in a region to ignore is neither right nor wrong.
_INSIDE = 0.5

#: As the matcher of the library has them.
BACKGROUND, NEITHER = Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS


@dataclass(frozen=True)
class Assigned:
    """What default boxes are to learn from a batch."""

    labels: torch.Tensor
    """BN: a class, BACKGROUND or NEITHER."""
    codes: torch.Tensor
    """P4: those of the default boxes that are for an object, in order."""

    @property
    def has_object(self) -> torch.Tensor:
        return self.labels >= 0


def assign(anchors_N4: torch.Tensor, targets: Sequence[Target], matcher: Matcher, coder: BoxCoder) -> Assigned:
    """Return what is for which object: what `matcher` says, and for every object the box that fits it best."""
    labels, codes = [], []
    for target in targets:
        objects = target.of(~target.is_ignored & (target.labels >= 0))
        number = torch.full((len(anchors_N4),), BACKGROUND, device=anchors_N4.device)
        if len(objects):
            iou_MN = box_iou(objects.boxes, anchors_N4)
            number = matcher(iou_MN)
            # why not the matcher's way: an object that lies in the best boxes of another would have none.
            number[iou_MN.argmax(dim=1)] = torch.arange(len(objects), device=number.device)
        label = number.clamp(max=0)
        found = number >= 0
        label[found] = objects.labels[number[found]]
        label[lies_in(anchors_N4, ignored_regions(target)) & ~found] = NEITHER
        labels.append(label)
        codes.append(coder.encode_single(objects.boxes[number[found]], anchors_N4[found]))
    return Assigned(torch.stack(labels), torch.cat(codes))


def ignored_regions(target: Target) -> torch.Tensor:
    """Return the boxes in which finding something is neither right nor wrong."""
    return target.boxes[target.is_ignored | (target.labels < 0)]


def lies_in(boxes_N4: torch.Tensor, regions_M4: torch.Tensor) -> torch.Tensor:
    """Tell of each box whether it lies in one of the regions."""
    if not len(regions_M4):
        return torch.zeros(len(boxes_N4), dtype=torch.bool, device=boxes_N4.device)
    corner = torch.maximum(boxes_N4[:, None, :2], regions_M4[None, :, :2])
    sides = (torch.minimum(boxes_N4[:, None, 2:], regions_M4[None, :, 2:]) - corner).clamp(min=0.0)
    share = sides.prod(dim=2) / box_area(boxes_N4)[:, None].clamp(min=1e-6)
    return (share >= _INSIDE).any(dim=1)


def decode(codes_BN4: torch.Tensor, anchors: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """Return boxes_BN4; `anchors` are N4 or BN4, and `weights` those that the codes were made with.

    The coder of the library does the same for a list of pictures, which a graph cannot have.
    """
    x, y, w, h = (codes_BN4 / torch.tensor(weights, device=codes_BN4.device)).unbind(dim=2)
    size = anchors[..., 2:] - anchors[..., :2]
    middle = anchors[..., :2] + size / 2
    x, y = x * size[..., 0] + middle[..., 0], y * size[..., 1] + middle[..., 1]
    w = w.clamp(max=_LARGEST).exp() * size[..., 0] / 2
    h = h.clamp(max=_LARGEST).exp() * size[..., 1] / 2
    return torch.stack([x - w, y - h, x + w, y + h], dim=2)

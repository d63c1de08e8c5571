"""What the candidates of a batch have to do with the objects in its pictures, for the losses of all detectors.

Shapes: B pictures, N candidates of a picture, M objects of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.ops import box_area, box_iou

from .pictures import Target

#: A candidate that has this share of its area in regions to ignore is neither right nor wrong.
_IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Objects:
    """All objects of a batch."""

    pictures: torch.Tensor
    """M int64: places in the batch."""
    boxes: torch.Tensor
    """M4 float32: left, top, right, bottom in pixels of the canvas."""
    labels: torch.Tensor
    """M int64."""


def objects_of(target: Target) -> Target:
    """Return what is to be found in a picture: no regions to ignore, and nothing without an area."""
    sides = target.boxes[:, 2:] - target.boxes[:, :2]
    return target.of(~target.is_ignored & (target.labels >= 0) & (sides > 0).all(dim=1))


def gather(targets: Sequence[Target]) -> Objects:
    """Return the objects of all pictures in one row."""
    found = [objects_of(target) for target in targets]
    labels = torch.cat([one.labels for one in found])
    counts = torch.tensor([len(one) for one in found], device=labels.device)
    pictures = torch.repeat_interleave(torch.arange(len(found), device=labels.device), counts, output_size=len(labels))
    return Objects(pictures, torch.cat([one.boxes for one in found]), labels)


@torch.no_grad()
def best_iou(boxes_BN4: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Return the IoU (BN) of each candidate with the object that it overlaps most, 0 without objects."""
    found = []
    for boxes_N4, target in zip(boxes_BN4, targets, strict=True):
        found.append(box_iou(boxes_N4, _or_nothing(objects_of(target).boxes)).amax(dim=1))
    return torch.stack(found)


@torch.no_grad()
def in_ignored(boxes_BN4: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Return which candidates (BN) lie in a region to ignore.

    As COCO measures it for crowds, by the share of the candidate's own area.
    """
    found = []
    for boxes_N4, target in zip(boxes_BN4, targets, strict=True):
        regions_M4 = _or_nothing(target.boxes[target.is_ignored | (target.labels < 0)])
        low = torch.maximum(boxes_N4[:, None, :2], regions_M4[None, :, :2])
        high = torch.minimum(boxes_N4[:, None, 2:], regions_M4[None, :, 2:])
        common_N = (high - low).clamp(min=0.0).prod(dim=2).amax(dim=1)
        found.append((common_N > 0) & (common_N >= _IGNORED_SHARE * box_area(boxes_N4)))
    return torch.stack(found)


def _or_nothing(boxes_M4: torch.Tensor) -> torch.Tensor:
    """Return the boxes and one without an area, so that there is a largest overlap in any case."""
    return torch.cat([boxes_M4, boxes_M4.new_zeros(1, 4)])

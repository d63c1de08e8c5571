"""The loss of DETR (Carion et al. 2020) with the focal loss and the weights of Deformable DETR (Zhu et al. 2021).

Shapes: D layers that each give an answer, B pictures, Q queries, K classes, M objects of a picture, P pairs of a query
and the object that it is to find. Boxes are middle and size as shares of width and height of the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from .assignment import in_ignored, objects_of
from .pictures import Target

_ALPHA, _GAMMA = 0.25, 2.0
_CLASS_WEIGHT, _EDGE_WEIGHT, _IOU_WEIGHT = 2.0, 5.0, 2.0


@dataclass(frozen=True)
class Pairs:
    """Queries, and what they are to find."""

    layers: torch.Tensor
    """P int64, as are pictures and queries."""
    pictures: torch.Tensor
    queries: torch.Tensor
    boxes: torch.Tensor
    """P4."""
    labels: torch.Tensor
    """P int64."""


def shares_of(target: Target, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the boxes and labels of the objects on a canvas of `size` (width, height)."""
    objects = objects_of(target)
    boxes_M4 = box_convert(objects.boxes, "xyxy", "cxcywh")
    return boxes_M4 / boxes_M4.new_tensor([*size, *size]), objects.labels


def set_loss(
    logits_DBQK: torch.Tensor, boxes_DBQ4: torch.Tensor, targets: Sequence[Target], size: tuple[int, int]
) -> torch.Tensor:
    """Return the loss of answers in which each object is to be found by one query, the one that suits it best."""
    objects = [shares_of(target, size) for target in targets]
    pairs = _match(logits_DBQK.detach(), boxes_DBQ4.detach(), objects)
    counts_DBQ = ~_is_ignored(boxes_DBQ4.detach(), targets, size)
    counts_DBQ[pairs.layers, pairs.pictures, pairs.queries] = True
    total = sum(len(labels_M) for _, labels_M in objects)
    return loss_of(logits_DBQK, boxes_DBQ4, pairs, counts_DBQ, max(1, total))


def loss_of(
    logits_DBQK: torch.Tensor, boxes_DBQ4: torch.Tensor, pairs: Pairs, counts_DBQ: torch.Tensor, total: int
) -> torch.Tensor:
    """Return the sum over all layers; queries without a pair are to see nothing, unless they do not count.

    `total` objects stand below the line.
    """
    at = (pairs.layers, pairs.pictures, pairs.queries)
    wanted_DBQK = torch.zeros_like(logits_DBQK)
    wanted_DBQK[(*at, pairs.labels)] = 1.0
    focal_DBQK = sigmoid_focal_loss(logits_DBQK, wanted_DBQK, _ALPHA, _GAMMA)
    kind = (focal_DBQK * counts_DBQ[..., None]).sum()
    found_P4 = boxes_DBQ4[at]
    edges = F.l1_loss(found_P4, pairs.boxes, reduction="sum")
    overlap = generalized_box_iou_loss(_corners(found_P4), _corners(pairs.boxes), reduction="sum")
    return (_CLASS_WEIGHT * kind + _EDGE_WEIGHT * edges + _IOU_WEIGHT * overlap) / total


def _match(
    logits_DBQK: torch.Tensor, boxes_DBQ4: torch.Tensor, objects: Sequence[tuple[torch.Tensor, torch.Tensor]]
) -> Pairs:
    """Return the pairs of least cost, one for each object and layer."""
    layers, pictures, queries, boxes, labels = [], [], [], [], []
    for picture, (boxes_M4, labels_M) in enumerate(objects):
        cost_DQM = _cost(logits_DBQK[:, picture], boxes_DBQ4[:, picture], boxes_M4, labels_M).cpu().numpy()
        for layer, cost_QM in enumerate(cost_DQM):
            chosen, found = (
                torch.from_numpy(numbers).to(labels_M.device) for numbers in linear_sum_assignment(cost_QM)
            )
            layers.append(torch.full_like(chosen, layer))
            pictures.append(torch.full_like(chosen, picture))
            queries.append(chosen)
            boxes.append(boxes_M4[found])
            labels.append(labels_M[found])
    return Pairs(torch.cat(layers), torch.cat(pictures), torch.cat(queries), torch.cat(boxes), torch.cat(labels))


def _cost(
    logits_DQK: torch.Tensor, boxes_DQ4: torch.Tensor, boxes_M4: torch.Tensor, labels_M: torch.Tensor
) -> torch.Tensor:
    """Return what it costs (DQM) to let a query find an object."""
    logits_DQM = logits_DQK[..., labels_M]
    chance_DQM = logits_DQM.sigmoid()
    kind = _ALPHA * (1 - chance_DQM) ** _GAMMA * F.softplus(-logits_DQM) - (
        1 - _ALPHA
    ) * chance_DQM**_GAMMA * F.softplus(logits_DQM)
    edges = (boxes_DQ4[:, :, None] - boxes_M4).abs().sum(dim=-1)
    overlap_SM = generalized_box_iou(_corners(boxes_DQ4.flatten(0, 1)), _corners(boxes_M4))
    cost = _CLASS_WEIGHT * kind + _EDGE_WEIGHT * edges - _IOU_WEIGHT * overlap_SM.view_as(edges)
    # why: of a network whose numbers have burst, the loss tells; the assignment would only fail.
    return cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)


def _is_ignored(boxes_DBQ4: torch.Tensor, targets: Sequence[Target], size: tuple[int, int]) -> torch.Tensor:
    """Return which queries (DBQ) see something in a region to ignore."""
    layers, pictures, queries, _ = boxes_DBQ4.shape
    pixels_BN4 = (_corners(boxes_DBQ4) * boxes_DBQ4.new_tensor([*size, *size])).transpose(0, 1).flatten(1, 2)
    return in_ignored(pixels_BN4, targets).view(pictures, layers, queries).transpose(0, 1)


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2.0, boxes[..., :2] + boxes[..., 2:] / 2.0], dim=-1)


def to_pixels(boxes_BQ4: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return left, top, right, bottom in pixels of a canvas of `size` (width, height)."""
    return _corners(boxes_BQ4) * boxes_BQ4.new_tensor([*size, *size])

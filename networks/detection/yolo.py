"""YOLOv3 (Redmon and Farhadi 2018), YOLOv4 (Bochkovskiy et al. 2020) and YOLOv4-tiny (their yolov4-tiny.cfg).

Shapes: B pictures, C channels, H height, W width, L levels, A anchors of all levels, N candidates of a picture,
K classes, M objects of the batch, P pairs of an object and an anchor that is to find it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import complete_box_iou_loss, generalized_box_iou_loss

from .assignment import best_iou, gather, in_ignored
from .detector import Candidates, Detector
from .features import Features
from .pictures import Target

T = TypeVar("T")

#: Widths and heights of the anchors of one level, in pixels of the input.
LevelAnchors = Sequence[tuple[float, float]]

#: At the beginning a candidate is an object with this chance, so that the many empty ones do not drown the rest.
_PRIOR = 0.001
#: Natural logarithm of the largest and smallest factor between a box and its anchor.
_LARGEST_LOG = 6.0


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What is right, what is wrong, and how much each counts."""

    is_complete_iou: bool
    """True for CIoU, False for GIoU."""
    matching_iou: float
    """An object is to be found by its best anchor and by all whose shape has more than this IoU."""
    neutral_iou: float
    """A candidate that is to find nothing, yet has this IoU with an object, is not wrong."""
    box_weight: float = 2.0
    objectness_weight: float = 1.0
    class_weight: float = 1.0
    label_smoothing: float = 0.0


#: As YOLOv4; the paper has the best anchor alone (1.0), by which it learns much more slowly.
V3_LEARNING = Learning(is_complete_iou=False, matching_iou=0.213, neutral_iou=0.5)
#: iou_thresh and ignore_thresh of yolov4.cfg.
V4_LEARNING = Learning(is_complete_iou=True, matching_iou=0.213, neutral_iou=0.7)


def yolo_v3(
    backbone: str,
    classes: int,
    anchors: Sequence[LevelAnchors],
    *,
    channels: int = 3,
    learning: Learning = V3_LEARNING,
) -> Yolo:
    """Return a YOLOv3 on a timm network, `darknet53` in the paper; `anchors` of the strides 8, 16 and 32."""
    features = Features(backbone, channels, (8, 16, 32))
    return Yolo(_TopDown(features), (8, 16, 32), classes, anchors, learning)


def yolo_v4(
    backbone: str,
    classes: int,
    anchors: Sequence[LevelAnchors],
    *,
    channels: int = 3,
    learning: Learning = V4_LEARNING,
    grid_extend: Sequence[float] = (0.2, 0.1, 0.05),
) -> Yolo:
    """Return a YOLOv4 on a timm network, `cspdarknet53` in the paper; `anchors` of the strides 8, 16 and 32.

    `grid_extend`: by how much of a cell a centre can lie outside of it, both sides together (scale_x_y - 1).
    """
    features = Features(backbone, channels, (8, 16, 32))
    return Yolo(_PathAggregation(features), (8, 16, 32), classes, anchors, learning, grid_extend)


def yolo_v4_tiny(
    classes: int,
    anchors: Sequence[LevelAnchors],
    *,
    channels: int = 3,
    learning: Learning = V4_LEARNING,
    grid_extend: Sequence[float] = (0.05, 0.05),
) -> Yolo:
    """Return a YOLOv4-tiny; `anchors` of the strides 16 and 32."""
    return Yolo(_Tiny(channels), (16, 32), classes, anchors, learning, grid_extend)


class _Body(nn.Module):
    """Gives a feature map for each level, finest first; `widths` are their channels."""

    widths: list[int]

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        raise NotImplementedError


class Yolo(Detector):
    """Boxes at the cells of several grids, each from an anchor. The sides of the input are multiples of 32."""

    anchors_A2: torch.Tensor
    strides_A: torch.Tensor
    extends_A: torch.Tensor

    def __init__(
        self,
        body: _Body,
        strides: Sequence[int],
        classes: int,
        anchors: Sequence[LevelAnchors],
        learning: Learning,
        grid_extend: Sequence[float] | None = None,
    ) -> None:
        """`grid_extend` of each level; None for 0."""
        super().__init__()
        if len(anchors) != len(strides) or not all(anchors):
            raise ValueError(f"anchors are needed for each of the strides {', '.join(map(str, strides))}")
        self.body = body
        self._classes = classes
        self._strides = tuple(strides)
        self._counts = [len(level) for level in anchors]
        self._learning = learning
        self.heads = nn.ModuleList(
            _head(width, count, classes) for width, count in zip(body.widths, self._counts, strict=True)
        )
        extends = grid_extend or [0.0] * len(strides)
        # why not persistent: they are arguments, so a weight file must not change them.
        per_anchor = {
            "anchors_A2": torch.tensor([size for level in anchors for size in level], dtype=torch.float32),
            "strides_A": torch.tensor(self._per_anchor(strides), dtype=torch.float32),
            "extends_A": torch.tensor(self._per_anchor(extends), dtype=torch.float32),
        }
        for name, values in per_anchor.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        maps = [head(features) for head, features in zip(self.heads, self.body(inputs_BCHW), strict=True)]
        shapes = [(int(level.shape[2]), int(level.shape[3])) for level in maps]
        # why: in half precision neither the sizes of boxes nor the sum over thousands of candidates would be right.
        raw_BNV = torch.cat([self._rows(level).float() for level in maps], dim=1)
        boxes_BN4 = self._boxes(raw_BNV[..., :4], shapes)
        objectness_BN, logits_BNK = raw_BNV[..., 4], raw_BNV[..., 5:]
        if targets is None:
            return boxes_BN4, objectness_BN[..., None].sigmoid() * logits_BNK.sigmoid()
        return self._loss(boxes_BN4, objectness_BN, logits_BNK, targets, shapes)

    def fixed_layers(self) -> list[nn.Module]:
        return list(self.heads)

    def _per_anchor(self, values: Sequence[T]) -> list[T]:
        return [value for value, count in zip(values, self._counts, strict=True) for _ in range(count)]

    def _rows(self, level_BCHW: torch.Tensor) -> torch.Tensor:
        """Return a map as rows of candidates: cell by cell, and in a cell anchor by anchor."""
        # why not len(): the exporter would take the batch for a constant.
        return level_BCHW.permute(0, 2, 3, 1).reshape(level_BCHW.shape[0], -1, 5 + self._classes)

    def _boxes(self, raw_BN4: torch.Tensor, shapes: list[tuple[int, int]]) -> torch.Tensor:
        """Return left, top, right, bottom in pixels."""
        cells_N2, anchors_N = self._candidates(shapes, raw_BN4.device)
        stride_N1, extend_N1 = self.strides_A[anchors_N, None], self.extends_A[anchors_N, None]
        shift = raw_BN4[..., :2].sigmoid() * (1.0 + extend_N1) - extend_N1 / 2.0
        centres = (cells_N2 + shift) * stride_N1
        sides = self.anchors_A2[anchors_N] * raw_BN4[..., 2:].clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()
        return torch.cat([centres - sides / 2.0, centres + sides / 2.0], dim=-1)

    def _candidates(self, shapes: list[tuple[int, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return column and row (N2) and the anchor (N) of each candidate."""
        cells, anchors, first = [], [], 0
        for (height, width), count in zip(shapes, self._counts, strict=True):
            rows_HW, columns_HW = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            cells.append(torch.stack([columns_HW, rows_HW], dim=-1).reshape(-1, 2).repeat_interleave(count, dim=0))
            anchors.append(torch.arange(first, first + count, device=device).repeat(height * width))
            first += count
        return torch.cat(cells), torch.cat(anchors)

    def _loss(
        self,
        boxes_BN4: torch.Tensor,
        objectness_BN: torch.Tensor,
        logits_BNK: torch.Tensor,
        targets: Sequence[Target],
        shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        objects = gather(targets)
        object_P, candidate_P = self._match(objects.boxes, shapes)
        picture_P = objects.pictures[object_P]
        is_object_BN = torch.zeros_like(objectness_BN)
        is_object_BN[picture_P, candidate_P] = 1.0
        boxes_BN4_now = boxes_BN4.detach()
        is_neutral_BN = best_iou(boxes_BN4_now, targets) > self._learning.neutral_iou
        is_neutral_BN |= in_ignored(boxes_BN4_now, targets)
        counts_BN = (~is_neutral_BN | (is_object_BN > 0)).float()
        objectness = F.binary_cross_entropy_with_logits(objectness_BN, is_object_BN, counts_BN, reduction="sum")

        box_loss = complete_box_iou_loss if self._learning.is_complete_iou else generalized_box_iou_loss
        place = box_loss(boxes_BN4[picture_P, candidate_P], objects.boxes[object_P], reduction="sum")

        smoothing = self._learning.label_smoothing
        wanted_PK = F.one_hot(objects.labels[object_P], self._classes).float() * (1.0 - smoothing) + smoothing / 2.0
        kind = F.binary_cross_entropy_with_logits(logits_BNK[picture_P, candidate_P], wanted_PK, reduction="sum")
        total = (
            self._learning.box_weight * place
            + self._learning.objectness_weight * objectness
            + self._learning.class_weight * kind
        )
        return total / max(1, len(object_P))

    def _match(self, boxes_M4: torch.Tensor, shapes: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pairs of an object and the candidate that is to find it: its cell, at anchors of its shape."""
        sides_M2, centres_M2 = boxes_M4[:, 2:] - boxes_M4[:, :2], (boxes_M4[:, 2:] + boxes_M4[:, :2]) / 2.0
        common_MA = torch.minimum(sides_M2[:, None], self.anchors_A2[None]).prod(dim=2)
        iou_MA = common_MA / (sides_M2.prod(dim=1)[:, None] + self.anchors_A2.prod(dim=1)[None] - common_MA)
        is_chosen_MA = F.one_hot(iou_MA.argmax(dim=1), len(self.anchors_A2)).bool()
        is_chosen_MA |= iou_MA > self._learning.matching_iou
        object_P, anchor_P = is_chosen_MA.nonzero(as_tuple=True)

        device = boxes_M4.device
        sizes_A2 = torch.tensor([shape[::-1] for shape in self._per_anchor(shapes)], device=device)
        count_A = torch.tensor(self._per_anchor(self._counts), device=device)
        sizes = [height * width * count for (height, width), count in zip(shapes, self._counts, strict=True)]
        starts = self._per_anchor([sum(sizes[:level]) for level in range(len(sizes))])
        places = [place for count in self._counts for place in range(count)]
        first_A = torch.tensor(starts, device=device) + torch.tensor(places, device=device)
        # why: the centre of a box at the very edge of the canvas may lie on the far side of the last cell.
        cell_P2 = (centres_M2[object_P] / self.strides_A[anchor_P, None]).long().clamp(min=0)
        cell_P2 = torch.minimum(cell_P2, sizes_A2[anchor_P] - 1)
        number_P = cell_P2[:, 1] * sizes_A2[anchor_P, 0] + cell_P2[:, 0]
        return object_P, first_A[anchor_P] + number_P * count_A[anchor_P]


def _head(width: int, anchors: int, classes: int) -> nn.Conv2d:
    head = nn.Conv2d(width, anchors * (5 + classes), 1)
    nn.init.normal_(head.weight, std=0.01)
    assert head.bias is not None
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias.view(anchors, -1)[:, 4] = -math.log(1 / _PRIOR - 1)
    return head


class _TopDown(_Body):
    """The neck of YOLOv3: each level sees what the coarser ones found."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        halves = [width // 2 for width in features.channels]
        self.blocks = nn.ModuleList()
        self.lifts = nn.ModuleList()
        above = 0
        for width, half in zip(reversed(features.channels), reversed(halves), strict=True):
            if above:
                self.lifts.append(_convolution(above, half, 1))
            self.blocks.append(_five(width + (half if above else 0), half))
            above = half
        self.last = nn.ModuleList(_convolution(half, 2 * half, 3) for half in halves)
        self.widths = [2 * half for half in halves]

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        coarse, *finer = reversed(self.features(inputs_BCHW))
        found = [self.blocks[0](coarse)]
        for block, lift, features in zip(self.blocks[1:], self.lifts, finer, strict=True):
            found.append(block(torch.cat([_twice(lift(found[-1])), features], dim=1)))
        return [last(level) for last, level in zip(self.last, reversed(found), strict=True)]


class _PathAggregation(_Body):
    """The neck of YOLOv4: spatial pyramid pooling, then down to the finest level and back up."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        fine, middle, coarse = (width // 2 for width in features.channels)
        self.before_pools = _three(features.channels[2], coarse)
        self.after_pools = _three(4 * coarse, coarse)
        self.lift_middle = _convolution(coarse, middle, 1)
        self.side_middle = _convolution(features.channels[1], middle, 1)
        self.down_middle = _five(2 * middle, middle)
        self.lift_fine = _convolution(middle, fine, 1)
        self.side_fine = _convolution(features.channels[0], fine, 1)
        self.down_fine = _five(2 * fine, fine)
        self.lower_middle = _convolution(fine, middle, 3, stride=2)
        self.up_middle = _five(2 * middle, middle)
        self.lower_coarse = _convolution(middle, coarse, 3, stride=2)
        self.up_coarse = _five(2 * coarse, coarse)
        self.last = nn.ModuleList(_convolution(half, 2 * half, 3) for half in (fine, middle, coarse))
        self.widths = [2 * fine, 2 * middle, 2 * coarse]

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        fine, middle, coarse = self.features(inputs_BCHW)
        coarse = self.before_pools(coarse)
        pools = [F.max_pool2d(coarse, size, stride=1, padding=size // 2) for size in (13, 9, 5)]
        coarse = self.after_pools(torch.cat([*pools, coarse], dim=1))
        middle = self.down_middle(torch.cat([self.side_middle(middle), _twice(self.lift_middle(coarse))], dim=1))
        fine = self.down_fine(torch.cat([self.side_fine(fine), _twice(self.lift_fine(middle))], dim=1))
        middle = self.up_middle(torch.cat([self.lower_middle(fine), middle], dim=1))
        coarse = self.up_coarse(torch.cat([self.lower_coarse(middle), coarse], dim=1))
        return [last(level) for last, level in zip(self.last, (fine, middle, coarse), strict=True)]


class _Tiny(_Body):
    """CSPDarknet-tiny and its neck, layer by layer as in yolov4-tiny.cfg."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(channels, 32, 3, stride=2), _convolution(32, 64, 3, stride=2))
        self.stages = nn.ModuleList([_TinyStage(64), _TinyStage(128), _TinyStage(256)])
        self.top = nn.Sequential(_convolution(512, 512, 3), _convolution(512, 256, 1))
        self.lift = _convolution(256, 128, 1)
        self.last_fine = _convolution(256 + 128, 256, 3)
        self.last_coarse = _convolution(256, 512, 3)
        self.widths = [256, 512]

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        features, fine = self.stem(inputs_BCHW), inputs_BCHW
        for stage in self.stages:
            features, fine = stage(features)
            features = F.max_pool2d(features, 2)
        coarse = self.top(features)
        fine = torch.cat([_twice(self.lift(coarse)), fine], dim=1)
        return [self.last_fine(fine), self.last_coarse(coarse)]


class _TinyStage(nn.Module):
    """A cross stage: half of the channels go through two more convolutions. Gives twice the channels it gets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        # why two: a convolution and a split of its channels, as in the paper, cannot be pruned.
        self.past = _convolution(width, half, 3)
        self.into = _convolution(width, half, 3)
        self.first = _convolution(half, half, 3)
        self.second = _convolution(half, half, 3)
        self.transition = _convolution(width, width, 1)

    def forward(self, inputs_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what goes on, and what the neck takes."""
        past, into = self.past(inputs_BCHW), self.into(inputs_BCHW)
        first = self.first(into)
        side = self.transition(torch.cat([self.second(first), first], dim=1))
        return torch.cat([past, into, side], dim=1), side


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _three(inputs: int, half: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, half, 1), _convolution(half, 2 * half, 3), _convolution(2 * half, half, 1)
    )


def _five(inputs: int, half: int) -> nn.Sequential:
    return nn.Sequential(_three(inputs, half), _convolution(half, 2 * half, 3), _convolution(2 * half, half, 1))


def _twice(features_BCHW: torch.Tensor) -> torch.Tensor:
    return F.interpolate(features_BCHW, scale_factor=2.0, mode="nearest")

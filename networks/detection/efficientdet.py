"""EfficientDet (Tan, Pang and Le 2020): a BiFPN on the features of any timm network, boxes from anchors.

Shapes: B pictures, C channels, H height, W width, N anchors of a picture, K classes, M objects of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from .assignment import in_ignored, objects_of
from .detector import Candidates, Detector
from .features import Features
from .pictures import Target

#: Table 1 of the paper, D0 to D7: channels of the BiFPN, its layers, layers of the heads.
COMPOUND = (
    (64, 3, 3),
    (88, 4, 3),
    (112, 5, 3),
    (160, 6, 4),
    (224, 7, 4),
    (288, 7, 4),
    (384, 8, 5),
    (384, 8, 5),
)

_BACKBONE_STRIDES = (8, 16, 32)
_STRIDES = (8, 16, 32, 64, 128)

#: At the beginning an anchor is an object with this chance, so that the many empty ones do not drown the rest.
_PRIOR = 0.01
#: An anchor with this IoU finds the object; so does the best anchor of each object.
_MATCHING_IOU = 0.5
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 1.5
_HUBER_DELTA, _BOX_WEIGHT = 0.1, 50.0
#: Natural logarithm of the largest factor between a box and its anchor.
_LARGEST_LOG = math.log(1000 / 16)


class EfficientDet(Detector):
    """The sides of the input are multiples of 32; of 128 they suit all levels."""

    ratios_A2: torch.Tensor

    def __init__(
        self,
        backbone: str,
        classes: int,
        *,
        channels: int = 3,
        width: int = 64,
        repeats: int = 3,
        head_repeats: int = 3,
        anchor_scale: float = 4.0,
        scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5),
    ) -> None:
        """`width`, `repeats` and `head_repeats` as in COMPOUND. An anchor is `anchor_scale` strides large, times one of
        `scales`; `aspect_ratios` are width to height."""
        super().__init__()
        self.features = Features(backbone, channels, _BACKBONE_STRIDES)
        self.lateral = nn.ModuleList(_pointwise(inputs, width) for inputs in self.features.channels)
        self.neck = nn.Sequential(*(_BiFPN(width) for _ in range(repeats)))
        ratios = [
            (anchor_scale * scale * math.sqrt(ratio), anchor_scale * scale / math.sqrt(ratio))
            for scale in scales
            for ratio in aspect_ratios
        ]
        self.kinds = _Head(width, head_repeats, len(ratios), classes, -math.log(1 / _PRIOR - 1))
        self.boxes = _Head(width, head_repeats, len(ratios), 4, 0.0)
        # why not persistent: they are arguments, so a weight file must not change them.
        self.register_buffer("ratios_A2", torch.tensor(ratios), persistent=False)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        levels = [lateral(level) for lateral, level in zip(self.lateral, self.features(inputs_BCHW), strict=True)]
        while len(levels) < len(_STRIDES):
            levels.append(_half(levels[-1]))
        levels = self.neck(levels)
        anchors_N4 = self._anchors([(int(level.shape[2]), int(level.shape[3])) for level in levels], levels[0].device)
        # why: in half precision neither pixels nor the sum over thousands of anchors would be right.
        logits_BNK, offsets_BN4 = self.kinds(levels).float(), self.boxes(levels).float()
        if targets is None:
            return _decode(offsets_BN4, anchors_N4), logits_BNK.sigmoid()
        return _loss(logits_BNK, offsets_BN4, anchors_N4, targets)

    def fixed_layers(self) -> list[nn.Module]:
        """All but the backbone: every layer of the BiFPN adds to every other, and the heads are shared."""
        return [layer for part in (self.lateral, self.neck, self.kinds, self.boxes) for layer in part.modules()]

    def _anchors(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> torch.Tensor:
        """Return left, top, right, bottom (N4) in pixels: cell by cell, and in a cell size by size."""
        found = []
        for (height, width), stride in zip(shapes, _STRIDES, strict=True):
            rows_HW, columns_HW = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            centres_N12 = (torch.stack([columns_HW, rows_HW], dim=-1).reshape(-1, 1, 2) + 0.5) * stride
            halves_A2 = self.ratios_A2 * (stride / 2)
            found.append(torch.cat([centres_N12 - halves_A2, centres_N12 + halves_A2], dim=-1).flatten(0, 1))
        return torch.cat(found)


def _decode(offsets_BN4: torch.Tensor, anchors_N4: torch.Tensor) -> torch.Tensor:
    """Return boxes: offsets of the middle in sizes of the anchor, and logarithms of factors of the size."""
    sizes_N2, middles_N2 = _sizes_and_middles(anchors_N4)
    middles_BN2 = middles_N2 + offsets_BN4[..., :2] * sizes_N2
    halves_BN2 = offsets_BN4[..., 2:].clamp(max=_LARGEST_LOG).exp() * sizes_N2 / 2.0
    return torch.cat([middles_BN2 - halves_BN2, middles_BN2 + halves_BN2], dim=-1)


def _encode(boxes_M4: torch.Tensor, anchors_M4: torch.Tensor) -> torch.Tensor:
    """Return the offsets that make `boxes_M4` of `anchors_M4`."""
    sizes_M2, middles_M2 = _sizes_and_middles(boxes_M4)
    anchor_sizes_M2, anchor_middles_M2 = _sizes_and_middles(anchors_M4)
    return torch.cat([(middles_M2 - anchor_middles_M2) / anchor_sizes_M2, (sizes_M2 / anchor_sizes_M2).log()], dim=-1)


def _sizes_and_middles(boxes_N4: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return boxes_N4[:, 2:] - boxes_N4[:, :2], (boxes_N4[:, 2:] + boxes_N4[:, :2]) / 2.0


def _loss(
    logits_BNK: torch.Tensor, offsets_BN4: torch.Tensor, anchors_N4: torch.Tensor, targets: Sequence[Target]
) -> torch.Tensor:
    is_ignored_BN = in_ignored(anchors_N4.expand(len(targets), -1, -1), targets)
    kinds, boxes, matched = logits_BNK.new_zeros(()), logits_BNK.new_zeros(()), 1
    for logits_NK, offsets_N4, is_ignored_N, target in zip(
        logits_BNK, offsets_BN4, is_ignored_BN, targets, strict=True
    ):
        objects = objects_of(target)
        anchor_P, object_P = _match(anchors_N4, objects.boxes)
        wanted_NK = torch.zeros_like(logits_NK)
        wanted_NK[anchor_P, objects.labels[object_P]] = 1.0
        counts_N = ~is_ignored_N
        counts_N[anchor_P] = True
        focal_NK = sigmoid_focal_loss(logits_NK, wanted_NK, _FOCAL_ALPHA, _FOCAL_GAMMA)
        kinds = kinds + (focal_NK * counts_N[:, None]).sum()
        wanted_P4 = _encode(objects.boxes[object_P], anchors_N4[anchor_P])
        boxes = boxes + F.huber_loss(offsets_N4[anchor_P], wanted_P4, reduction="sum", delta=_HUBER_DELTA) / 4.0
        matched += len(anchor_P)
    return (kinds + _BOX_WEIGHT * boxes) / matched


def _match(anchors_N4: torch.Tensor, boxes_M4: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pairs of an anchor and the object that it is to find."""
    # why one more: so that there is a best object in any case; without an area it is never the one.
    iou_NM = box_iou(anchors_N4, F.pad(boxes_M4, (0, 0, 0, 1)))
    best_N, object_N = iou_NM.max(dim=1)
    is_matched_N = best_N >= _MATCHING_IOU
    most_M, anchor_M = iou_NM[:, :-1].max(dim=0)
    is_overlapped_M = most_M > 0
    is_matched_N[anchor_M[is_overlapped_M]] = True
    object_N[anchor_M[is_overlapped_M]] = is_overlapped_M.nonzero()[:, 0]
    anchor_P = is_matched_N.nonzero()[:, 0]
    return anchor_P, object_N[anchor_P]


class _BiFPN(nn.Module):
    """One layer: down from the coarsest level to the finest, and back up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        count = len(_STRIDES)
        self.down = nn.ModuleList(_Fusion(width, 2) for _ in range(count - 1))
        self.up = nn.ModuleList(_Fusion(width, 3 if level < count - 1 else 2) for level in range(1, count))

    def forward(self, levels: list[torch.Tensor]) -> list[torch.Tensor]:
        """Take and give the levels, finest first."""
        count = len(levels)
        down = [levels[-1]]
        for level in reversed(range(count - 1)):
            size = levels[level].shape[2:]
            down.insert(0, self.down[level]([levels[level], F.interpolate(down[0], size=size, mode="nearest")]))
        up = [down[0]]
        for level in range(1, count):
            # why: the coarsest level has no other on the way down.
            here = [levels[level], down[level]] if level < count - 1 else [levels[level]]
            up.append(self.up[level - 1]([*here, _half(up[-1])]))
        return up


class _Fusion(nn.Module):
    """A weighted mean of several maps (the paper's fast normalized fusion), and a convolution."""

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.convolution = nn.Sequential(nn.SiLU(), *_separable(width, width), nn.BatchNorm2d(width))

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        shares = self.weights.relu()
        total = torch.stack([one * share for one, share in zip(maps, shares, strict=True)]).sum(dim=0)
        return self.convolution(total / (shares.sum() + 1e-4))


class _Head(nn.Module):
    """Layers that all levels share, but for their norms; gives `outputs` of each anchor."""

    def __init__(self, width: int, repeats: int, anchors: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.outputs = outputs
        self.layers = nn.ModuleList(nn.Sequential(*_separable(width, width)) for _ in range(repeats))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in _STRIDES) for _ in range(repeats))
        depthwise, last = _separable(width, anchors * outputs)
        nn.init.normal_(last.weight, std=0.01)
        assert last.bias is not None
        nn.init.constant_(last.bias, bias)
        self.last = nn.Sequential(depthwise, last)

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """Return a row (BN) for each anchor."""
        found = []
        for number, level in enumerate(levels):
            for layer, norms in zip(self.layers, self.norms, strict=True):
                assert isinstance(norms, nn.ModuleList)
                level = F.silu(norms[number](layer(level)))
            rows = self.last(level).permute(0, 2, 3, 1)
            found.append(rows.reshape(rows.shape[0], -1, self.outputs))
        return torch.cat(found, dim=1)


def _separable(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    return depthwise, nn.Conv2d(inputs, outputs, 1)


def _pointwise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


def _half(level_BCHW: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(level_BCHW, 3, stride=2, padding=1)

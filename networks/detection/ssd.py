"""`ssd`: default boxes on feature maps from fine to coarse; `dssd` merges each map with the coarser ones first.

Shapes: B pictures, C channels, H height, W width, N default boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSDHead

from ...schemas.errors import SpecError
from .anchors import NEITHER, assign, decode
from .detector import Candidates, Detector
from .features import Features
from .model import Record
from .pictures import Target
from .ssd_spec import DssdConfig, SsdConfig

_STRIDES = (8, 16, 32)

#: Maps at most; one of a single pixel is the last.
_MAPS = 6

#: Channels of the maps that come after those of the backbone.
_EXTRA_CHANNELS = 256

#: Least IoU of a default box with the object that it is for.
_MATCHING_IOU = 0.5

#: So many of the hardest default boxes of a picture without objects count.
_HARDEST = 8


def build(record: Record) -> SSD:
    return SSD(record)


class SSD(Detector):
    def __init__(self, record: Record) -> None:
        super().__init__()
        deconvolves = record.network == "dssd"
        config = (DssdConfig if deconvolves else SsdConfig).model_validate(record.options)
        self._loc_weight, self._negatives = config.loss_loc_weight, config.neg_pos_ratio
        self._weights = [1 / variance for variance in config.variances]
        self._coder = BoxCoder(tuple(self._weights))
        self._matcher = Matcher(_MATCHING_IOU, _MATCHING_IOU)

        self.backbone = Features(record.backbone, record.channels, _STRIDES)
        channels = self.backbone.channels
        extras = []
        height, width = (-(-side // _STRIDES[-1]) for side in (record.height, record.width))
        while len(channels) < _MAPS and max(height, width) > 1:
            extras.append(_halved(channels[-1], _EXTRA_CHANNELS))
            channels = [*channels, _EXTRA_CHANNELS]
            height, width = -(-height // 2), -(-width // 2)
        self.extras = nn.ModuleList(extras)
        self.merging: _Merging | None = None
        if isinstance(config, DssdConfig):
            self.merging = _Merging(channels, config.pred_num_channels, config.merge)
            channels = [config.pred_num_channels] * len(channels)
        if len(config.scales) not in (0, len(channels) + 1):
            raise SpecError(
                f"{record.network}_config.scales has {len(config.scales)} numbers, and an input of {record.width} x "
                f"{record.height} pixels gives {len(channels)} feature maps.",
                hint=f"Give {len(channels) + 1} numbers, or none.",
            )
        ratios = sorted({round(max(ratio, 1 / ratio), 6) for ratio in config.aspect_ratios_global} - {1.0})
        generator = DefaultBoxGenerator(
            [ratios] * len(channels), min_ratio=0.1, max_ratio=0.9, scales=config.scales or None
        )
        self.head = SSDHead(channels, generator.num_anchors_per_location(), len(record.classes) + 1)
        self.anchors_N4: torch.Tensor
        self.register_buffer("anchors_N4", self._anchors(record, generator), persistent=False)

    @torch.no_grad()
    def _anchors(self, record: Record, generator: DefaultBoxGenerator) -> torch.Tensor:
        pixels = torch.zeros(1, *record.shape)
        self.eval()
        anchors: torch.Tensor = generator(ImageList(pixels, [(record.height, record.width)]), self._maps(pixels))[0]
        return anchors

    def _maps(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        maps = self.backbone(inputs_BCHW)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return maps if self.merging is None else self.merging(maps)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        found = self.head(self._maps(inputs_BCHW))
        codes_BN4, logits_BNK = found["bbox_regression"].float(), found["cls_logits"].float()
        if targets is not None:
            return self._loss(codes_BN4, logits_BNK, targets)
        return decode(codes_BN4, self.anchors_N4, self._weights), logits_BNK.softmax(dim=2)[..., 1:]

    def _loss(self, codes_BN4: torch.Tensor, logits_BNK: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        wanted = assign(self.anchors_N4, targets, self._matcher, self._coder)
        places = F.smooth_l1_loss(codes_BN4[wanted.has_object], wanted.codes, reduction="sum")
        # why plus one: the first logit is that of the background.
        classes_BN = F.cross_entropy(logits_BNK.transpose(1, 2), (wanted.labels + 1).clamp(min=0), reduction="none")
        objects_B = wanted.has_object.sum(dim=1, keepdim=True)
        ranked = classes_BN.detach().masked_fill(wanted.has_object | (wanted.labels == NEITHER), -1.0)
        rank_BN = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        hard_BN = (rank_BN < (self._negatives * objects_B).clamp(min=_HARDEST)) & (ranked >= 0)
        classes = (classes_BN * (wanted.has_object | hard_BN)).sum()
        return (self._loc_weight * places + classes) / objects_B.sum().clamp(min=1)

    def fixed_layers(self) -> list[nn.Module]:
        return [layer for layer in self.head.modules() if isinstance(layer, nn.Conv2d)]


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _halved(inputs: int, outputs: int) -> nn.Sequential:
    """Return layers that make a map of half the size, rounded up."""
    return nn.Sequential(_convolution(inputs, outputs // 2, 1), _convolution(outputs // 2, outputs, 3, stride=2))


class _Merging(nn.Module):
    """Merges every map with the coarser ones, the coarsest first."""

    def __init__(self, channels: Sequence[int], width: int, how: Literal["product", "sum"]) -> None:
        super().__init__()
        self._how = how
        self.sides = nn.ModuleList(_convolution(inputs, width, 3)[:2] for inputs in channels)
        ups = [_convolution(width, width, 3)[:2] for _ in channels[1:]]
        # why: so it begins as an SSD and learns what to take from coarser maps, instead of being led by their noise.
        for up in ups:
            norm = up[1]
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
            nn.init.constant_(norm.bias, 1.0 if how == "product" else 0.0)
        self.ups = nn.ModuleList(ups)

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        sides = [side(map_BCHW) for side, map_BCHW in zip(self.sides, maps, strict=True)]
        merged = [F.relu(sides[-1])]
        for side, up in zip(reversed(sides[:-1]), reversed(list(self.ups)), strict=True):
            coarse = up(F.interpolate(merged[0], size=side.shape[-2:], mode="nearest"))
            merged.insert(0, F.relu(side * coarse if self._how == "product" else side + coarse))
        return merged

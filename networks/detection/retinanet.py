"""`retinanet`: anchors on a feature pyramid, learned with the focal loss.

Shapes: B pictures, C channels, H height, W width, N anchors, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, sigmoid_focal_loss
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from .anchors import NEITHER, assign, decode
from .detector import Candidates, Detector
from .features import Features
from .model import Record
from .pictures import Target
from .retinanet_spec import RetinanetConfig

_STRIDES = (8, 16, 32)

#: Those of the pyramid, whose last two maps are made of the one before.
_ALL_STRIDES = (8, 16, 32, 64, 128)

#: An anchor is for an object that it overlaps by this much, and for none when it overlaps all of them by less than the
#: second number.
_FOR, _NOT_FOR = 0.5, 0.4


def build(record: Record) -> RetinaNet:
    return RetinaNet(record)


class RetinaNet(Detector):
    def __init__(self, record: Record) -> None:
        super().__init__()
        config = RetinanetConfig.model_validate(record.options)
        self._loc_weight = config.loss_loc_weight
        self._alpha, self._gamma = config.focal_loss_alpha, config.focal_loss_gamma
        self._weights = [1 / variance for variance in config.variances]
        self._coder = BoxCoder(tuple(self._weights))
        self._matcher = Matcher(_FOR, _NOT_FOR)

        width = config.feature_size
        self.backbone = Features(record.backbone, record.channels, _STRIDES)
        self.pyramid = FeaturePyramidNetwork(
            self.backbone.channels, width, extra_blocks=LastLevelP6P7(width, width), norm_layer=_Norm
        )
        steps = [2 ** (step / config.n_anchor_levels) for step in range(config.n_anchor_levels)]
        generator = AnchorGenerator(
            sizes=tuple(tuple(config.anchor_scale * stride * step for step in steps) for stride in _ALL_STRIDES),
            # why: those of the library are height by width.
            aspect_ratios=(tuple(1 / ratio for ratio in config.aspect_ratios_global),) * len(_ALL_STRIDES),
        )
        (count,) = set(generator.num_anchors_per_location())
        self.head = RetinaNetHead(width, count, len(record.classes), norm_layer=_Norm)
        self.anchors_N4: torch.Tensor
        self.register_buffer("anchors_N4", self._anchors(record, generator), persistent=False)

    @torch.no_grad()
    def _anchors(self, record: Record, generator: AnchorGenerator) -> torch.Tensor:
        pixels = torch.zeros(1, *record.shape)
        self.eval()
        anchors: torch.Tensor = generator(ImageList(pixels, [(record.height, record.width)]), self._maps(pixels))[0]
        return anchors

    def _maps(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        features = {str(level): feature for level, feature in enumerate(self.backbone(inputs_BCHW))}
        return list(self.pyramid(features).values())

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        found = self.head(self._maps(inputs_BCHW))
        codes_BN4, logits_BNK = found["bbox_regression"].float(), found["cls_logits"].float()
        if targets is not None:
            return self._loss(codes_BN4, logits_BNK, targets)
        return decode(codes_BN4, self.anchors_N4, self._weights), logits_BNK.sigmoid()

    def _loss(self, codes_BN4: torch.Tensor, logits_BNK: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
        wanted = assign(self.anchors_N4, targets, self._matcher, self._coder)
        places = F.l1_loss(codes_BN4[wanted.has_object], wanted.codes, reduction="sum")
        truth_BNK = F.one_hot(wanted.labels.clamp(min=0), logits_BNK.shape[2]) * wanted.has_object[..., None]
        classes_BNK = sigmoid_focal_loss(logits_BNK, truth_BNK.to(logits_BNK.dtype), self._alpha, self._gamma)
        classes = (classes_BNK * (wanted.labels != NEITHER)[..., None]).sum()
        return (self._loc_weight * places + classes) / wanted.has_object.sum().clamp(min=1)

    def fixed_layers(self) -> list[nn.Module]:
        return [self.head.classification_head.cls_logits, self.head.regression_head.bbox_reg]


class _Norm(nn.GroupNorm):
    """One group, since pruning leaves numbers of channels that the usual 32 do not divide."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels)

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        # why: on a CPU the variance of bf16 maps comes out as no number.
        return super().forward(inputs_BCHW.float())

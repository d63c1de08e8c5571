"""The mask of the object in the middle of a crop, from pixels and the object's box.

As in "Vision Transformers Are Good Mask Auto-Labelers" (Lan et al., CVPR 2023), section 3.3: the mean
feature inside the box asks, every pixel answers, and their product is the mask. Features of several sizes are added up
as in a feature pyramid, so that convolutional backbones do as well.

Shape legend: B boxes, C channel, H height, W width of a crop; h, w of its mask.
"""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

#: Features of a smaller stride cost much and add little.
_FINEST_STRIDE = 4

#: Channels of a group that is normalised together.
_GROUP = 8


class MaskNet(nn.Module):
    """Gives the logits of masks, BHW, at a size of its own."""

    def __init__(
        self,
        arch: str,
        size: int,
        *,
        convolutions: int,
        hidden: int,
        out: int,
        scale: float,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone: Any = _backbone(arch, size, drop_path)
        self._is_channels_last = str(getattr(self.backbone, "output_fmt", "")).endswith("NHWC")
        info = self.backbone.feature_info
        strides = info.reduction()
        self._used = [i for i, stride in enumerate(strides) if stride >= _FINEST_STRIDE] or [len(strides) - 1]
        self.laterals = nn.ModuleList(nn.Conv2d(info.channels()[i], hidden, 1) for i in self._used)
        self._scale = scale
        self.pixels = nn.Sequential(*(_convolution(hidden) for _ in range(convolutions)), nn.Conv2d(hidden, out, 1))
        self.query = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, images_BCHW: torch.Tensor, boxes_BHW: torch.Tensor) -> torch.Tensor:
        """Return logits; `boxes_BHW` is 1 inside the box and 0 outside."""
        found = self.backbone(images_BCHW)
        maps = [found[i].permute(0, 3, 1, 2) if self._is_channels_last else found[i] for i in self._used]
        features = self.laterals[0](maps[0])
        for lateral, coarser in zip(list(self.laterals)[1:], maps[1:], strict=True):
            features = features + F.interpolate(lateral(coarser), size=features.shape[-2:], mode="nearest")
        inside = F.interpolate(boxes_BHW[:, None].to(features.dtype), size=features.shape[-2:], mode="area")
        mean_BC = (features * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1e-4)
        query_BC = self.query(mean_BC)
        if self._scale != 1:
            features = F.interpolate(features, scale_factor=self._scale, mode="nearest")
        pixels_BChw = self.pixels(features)
        products = torch.einsum("bc,bchw->bhw", query_BC, pixels_BChw)
        return products * pixels_BChw.shape[1] ** -0.5 + self.bias


class MaskLabeller(nn.Module):
    """A network that learns, and a teacher that follows it: its running mean."""

    steps: torch.Tensor

    def __init__(self, student: MaskNet) -> None:
        super().__init__()
        self.student = student
        self.teacher = copy.deepcopy(student).requires_grad_(False).eval()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images_BCHW: torch.Tensor, boxes_BHW: torch.Tensor) -> torch.Tensor:
        """Return the logits of the student."""
        found: torch.Tensor = self.student(images_BCHW, boxes_BHW)
        return found

    def train(self, mode: bool = True) -> MaskLabeller:
        """Let the student train; the teacher never does."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student: before a step, so that a training that goes on does the same."""
        # why less at first: the weights that training begins with are no model.
        moved = 1 - ((1 + self.steps) / (10 + self.steps)).clamp(max=momentum)
        student = self.student.state_dict()
        for name, mean in self.teacher.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(student[name], moved)
            else:
                mean.copy_(student[name])
        self.steps += 1


def _backbone(arch: str, size: int, drop_path: float) -> Any:
    wanted: dict[str, Any] = {"img_size": size, "drop_path_rate": drop_path}
    # why tried and not looked up: models differ in what they can be told, and say so only by refusing it.
    for names in (("img_size", "drop_path_rate"), ("drop_path_rate",), ("img_size",)):
        options: dict[str, Any] = {name: wanted[name] for name in names}
        try:
            return timm.create_model(arch, features_only=True, pretrained=False, **options)
        except TypeError:
            continue
    return timm.create_model(arch, features_only=True, pretrained=False)


def _convolution(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.GroupNorm(channels // _GROUP, channels),
        nn.ReLU(inplace=True),
    )

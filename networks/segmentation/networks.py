"""The two networks. Both give logits at the size of their input, which is a multiple of 32.

Shape legend: B batch, C class or channel, H height, W width.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation

#: Hidden sizes, depths of the four stages and width of the decoder: table 6 of the SegFormer paper.
_MIX_TRANSFORMERS = {
    "mit_b0": ([32, 64, 160, 256], [2, 2, 2, 2], 256),
    "mit_b1": ([64, 128, 320, 512], [2, 2, 2, 2], 256),
    "mit_b2": ([64, 128, 320, 512], [3, 4, 6, 3], 768),
    "mit_b3": ([64, 128, 320, 512], [3, 4, 18, 3], 768),
    "mit_b4": ([64, 128, 320, 512], [3, 8, 27, 3], 768),
    "mit_b5": ([64, 128, 320, 512], [3, 6, 40, 3], 768),
}

_LOWEST_CHANNELS = 16


class UNet(nn.Module):
    """A U-Net decoder on the features of a timm network."""

    def __init__(self, arch: str, channels: int, classes: int, decoder_channels: int) -> None:
        super().__init__()
        encoder: Any = timm.create_model(arch, features_only=True, pretrained=False, in_chans=channels)
        self.encoder = encoder
        *skips, below = encoder.feature_info.channels()
        steps = []
        for depth, skip in enumerate([*reversed(skips), 0]):
            above = max(_LOWEST_CHANNELS, decoder_channels // 2**depth)
            steps.append(_Step(below, skip, above))
            below = above
        self.steps = nn.ModuleList(steps)
        self.head = nn.Conv2d(below, classes, 1)

    def replace_head(self, classes: int) -> None:
        """Give the network a new last layer, for other classes."""
        self.head = nn.Conv2d(self.head.in_channels, classes, 1)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        *skips, below = self.encoder(images_BCHW)
        for step, skip in zip(self.steps, [*reversed(skips), None], strict=True):
            below = step(below, skip)
        return self.head(below)


class _Step(nn.Module):
    """Twice the size, the features of that size, two convolutions."""

    def __init__(self, below: int, skip: int, above: int) -> None:
        super().__init__()
        self.first = _convolution(below + skip, above)
        self.second = _convolution(above, above)

    def forward(self, below: torch.Tensor, skip: torch.Tensor | None) -> torch.Tensor:
        below = F.interpolate(below, scale_factor=2.0, mode="nearest")
        return self.second(self.first(below if skip is None else torch.cat([below, skip], dim=1)))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class SegFormer(nn.Module):
    """SegFormer of the transformers library, with its logits at the size of the input."""

    def __init__(self, arch: str, channels: int, classes: int) -> None:
        super().__init__()
        sizes, depths, decoder = _MIX_TRANSFORMERS[arch]
        options: dict[str, Any] = {
            "num_channels": channels,
            "num_labels": classes,
            "hidden_sizes": sizes,
            "depths": depths,
            "decoder_hidden_size": decoder,
        }
        self.network = SegformerForSemanticSegmentation(SegformerConfig(**options))

    def replace_head(self, classes: int) -> None:
        """Give the network a new last layer, for other classes."""
        decoder = self.network.decode_head
        decoder.classifier = nn.Conv2d(decoder.classifier.in_channels, classes, 1)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        logits = self.network(pixel_values=images_BCHW).logits
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)


Segmenter = UNet | SegFormer

"""Features of timm networks for detectors, in a form that can be pruned."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.cspnet import CrossStage, CrossStage3
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

from ...schemas.errors import SpecError

#: Sides of the picture that shows which feature maps a network has.
_PROBE = 64


class Features(nn.Module):
    """The feature maps of a timm network that are `strides` times smaller than its input."""

    def __init__(self, backbone: str, channels: int, strides: Sequence[int]) -> None:
        """`channels` are those of the input.

        Raises:
            SpecError: timm has no such network, or it has no feature map of one of the strides.
        """
        super().__init__()
        if not timm.is_model(backbone):
            close = difflib.get_close_matches(backbone, timm.list_models(), n=5, cutoff=0.5)
            raise SpecError(
                f"timm has no model {backbone!r} for the backbone.",
                hint=f"Similar names: {', '.join(close)}." if close else "timm.list_models() lists the names.",
            )
        numbers = _numbers(backbone, channels)
        if not numbers.keys() >= set(strides):
            raise SpecError(
                f"The backbone {backbone} has no feature maps of the strides {', '.join(map(str, strides))} for inputs "
                "of any size.",
                hint="Use a network that halves the size at each stage, for example a resnet or a mobilenet.",
            )
        self.network = _create(backbone, channels, out_indices=[numbers[stride] for stride in strides])
        _cut(self.network)
        unsplit(self.network)
        self.channels: list[int] = self.network.feature_info.channels()

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        return self.network(inputs_BCHW)


def _numbers(backbone: str, channels: int) -> dict[int, int]:
    """Return the stride and the number of each feature map.

    Measured, because some networks have fixed inputs or their channels last. Of several with the same
    stride it is the last, which has seen the most layers.
    """
    try:
        # why: there it costs neither time nor memory.
        with torch.device("meta"), torch.inference_mode():
            network = _create(backbone, channels)
            maps = network.eval()(torch.empty(1, channels, _PROBE, _PROBE))
    # why: networks with fixed inputs refuse others in many ways.
    except (RuntimeError, AssertionError, AttributeError, ValueError, TypeError):
        return {}
    about = network.feature_info
    return {
        _PROBE // features.shape[2]: number
        for number, features, count in zip(about.out_indices, maps, about.channels(), strict=True)
        if features.shape[1] == count and features.shape[2] == features.shape[3]
    }


def _create(backbone: str, channels: int, **options: Any) -> Any:
    return timm.create_model(backbone, features_only=True, pretrained=False, in_chans=channels, **options)


def _cut(network: nn.Module) -> None:
    """Take the layers away that no chosen feature map needs, as timm itself does with most networks."""
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        network.blocks = network.blocks[: max(info["stage"] for info in network.feature_info.get_dicts())]


def unsplit(network: nn.Module) -> None:
    """Let no cross stage of `network` split what one convolution gives; what it computes stays the same.

    The split has its sizes in the code of timm, and so forbids pruning. Two convolutions with half of the channels
    each give the same.
    """
    for name, stage in list(network.named_modules()):
        if isinstance(stage, CrossStage | CrossStage3):
            network.set_submodule(name, _TwoPaths(stage))


class _TwoPaths(nn.Module):
    """A cross stage of timm, with a convolution for each of its two paths."""

    def __init__(self, stage: CrossStage | CrossStage3) -> None:
        super().__init__()
        half = stage.expand_chs // 2
        first, second = _part(stage.conv_exp, slice(half)), _part(stage.conv_exp, slice(half, 2 * half))
        self.conv_down = stage.conv_down or nn.Identity()
        # why: CrossStage sends the second half through its blocks and puts it last; CrossStage3 the first.
        if isinstance(stage, CrossStage):
            self.past, self.into = first, second
            self.blocks = nn.Sequential(stage.blocks, stage.conv_transition_b)
        else:
            self.past, self.into = second, first
            self.blocks = nn.Sequential(stage.blocks)
        self.puts_blocks_first = isinstance(stage, CrossStage3)
        self.conv_transition = stage.conv_transition

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        inputs_BCHW = self.conv_down(inputs_BCHW)
        past, through = self.past(inputs_BCHW), self.blocks(self.into(inputs_BCHW))
        paths = (through, past) if self.puts_blocks_first else (past, through)
        return self.conv_transition(torch.cat(paths, dim=1))


def _part(layers: nn.Module, which: slice) -> nn.Module:
    """Return a copy of a convolution and its norm with some of their output channels."""
    made = copy.deepcopy(layers)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            layer.out_channels = len(range(layer.out_channels)[which])
        elif isinstance(layer, nn.BatchNorm2d):
            layer.num_features = len(range(layer.num_features)[which])
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(parameter.detach()[which].clone()))
        for name, buffer in layer.named_buffers(recurse=False):
            if buffer.ndim:
                setattr(layer, name, buffer[which].clone())
    return made

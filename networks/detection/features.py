"""Features of timm networks for detectors, in a form that can be pruned."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.cspnet import CrossStage, CrossStage3
from torch import nn

from ...schemas.errors import SpecError


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
        try:
            # why: the numbers of the feature maps are known only when the network exists; there it costs nothing.
            with torch.device("meta"):
                found: list[int] = _create(backbone, channels).feature_info.reduction()
        except (RuntimeError, AttributeError) as error:
            raise _unfit(backbone, strides) from error
        if not set(strides) <= set(found):
            raise _unfit(backbone, strides)
        # why the last of a stride: it has seen the most layers.
        chosen = [max(i for i, reduction in enumerate(found) if reduction == stride) for stride in strides]
        self.network = _create(backbone, channels, out_indices=chosen)
        unsplit(self.network)
        self.channels: list[int] = self.network.feature_info.channels()

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        return self.network(inputs_BCHW)


def _unfit(backbone: str, strides: Sequence[int]) -> SpecError:
    return SpecError(
        f"The backbone {backbone} has no feature maps of the strides {', '.join(map(str, strides))}.",
        hint="Use a network that halves the size at each stage, for example a resnet or a mobilenet.",
    )


def _create(backbone: str, channels: int, **options: Any) -> Any:
    return timm.create_model(backbone, features_only=True, pretrained=False, in_chans=channels, **options)


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

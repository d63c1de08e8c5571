"""Features of a picture at several sizes, from any timm network of convolutions."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import nn

from ...schemas.errors import SpecError


class Features(nn.Module):
    """The features of a timm network at some strides."""

    def __init__(self, name: str, channels: int, strides: Sequence[int]) -> None:
        """Raises:
        SpecError: timm has no such network, or it has no features of these strides.
        """
        super().__init__()
        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
            raise SpecError(
                f"timm has no model {name!r} for the backbone.",
                hint=f"Similar names: {', '.join(close)}." if close else "timm.list_models() lists the names.",
            )
        network: Any = timm.create_model(name, features_only=True, pretrained=False, in_chans=channels)
        found = network.feature_info.reduction()
        if not set(strides) <= set(found):
            raise SpecError(
                f"The backbone {name} has features of the strides {', '.join(map(str, found))}, and the network needs "
                f"{', '.join(map(str, strides))}.",
                hint="Use a network that halves the size at each stage, for example a resnet or a mobilenet.",
            )
        self.network = network
        self._places = [found.index(stride) for stride in strides]
        self.channels: list[int] = [network.feature_info.channels()[place] for place in self._places]

    def forward(self, inputs_BCHW: torch.Tensor) -> list[torch.Tensor]:
        features = self.network(inputs_BCHW)
        return [features[place] for place in self._places]

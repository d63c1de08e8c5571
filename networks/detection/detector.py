"""What training, metrics, pruning and graphs ask of a detector, whatever its architecture.

Shapes: B pictures, C channels, H height, W width, N candidate boxes of a picture, K classes, M side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import nn

from .pictures import Target

#: Candidates of a picture: boxes_BN4, left, top, right, bottom in pixels of the canvas; scores_BNK, each 0 to 1; and
#: from networks with masks masks_BNX, each 0 to 1: M x M cells over the box, row by row, for its most likely class.
Candidates = tuple[torch.Tensor, ...]


class Detector(nn.Module):
    """A network that finds boxes.

    N is the same for every picture of one size, so that the graph is dense: what is a duplicate, and what is sure
    enough to be told, is decided outside, in one place for all detectors and for graphs too.
    """

    selection: ClassVar[Literal["nms", "top_k"]] = "nms"
    """`nms`: several candidates lie on one object. `top_k`: one candidate for each object, as in DETR."""

    mask_side: int = 0
    """Cells along each side of a mask; 0 for networks of boxes alone, whose targets have no masks."""

    is_ordered: ClassVar[bool] = True
    """The n-th candidate has the same place in the network for every picture. False where the network chooses its
    candidates by a score: rounding may change their order, so graphs are compared without it."""

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        """Return the loss, a scalar, when there are targets; else the candidates.

        `inputs_BCHW` are normalized. Targets may be empty, and may have regions to ignore (label DONT_CARE, or
        `is_ignored`): candidates there are neither right nor wrong. The loss is asked for outside of training too.
        """
        raise NotImplementedError

    def traced(self, inputs_BCHW: torch.Tensor) -> object:
        """Return outputs that depend on all layers, for pruning to follow.

        A network that chooses among its candidates leaves the choice out: how layers depend on it cannot be followed.
        """
        return self(inputs_BCHW)

    def fixed_layers(self) -> list[nn.Module]:
        """Return the layers whose outputs keep their number when the network is pruned, such as those of its heads."""
        raise NotImplementedError

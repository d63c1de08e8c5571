"""DetectNet_v2: which cells of one grid an object covers, and where its edges are.

The rules are those of the `bbox_rasterizer` and the `cost_function_config` in NVIDIA's documents of DetectNet_v2. What
is different here: a cell has one box for all classes, so that the number of candidates does not grow with them.

Shapes: B pictures, C channels, H height, W width, N cells of a picture, K classes, M objects of the picture with most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .assignment import in_ignored, objects_of
from .detector import Candidates, Detector
from .features import Features
from .pictures import Target

STRIDE = 16

#: Edges are learnt in units of so many pixels.
_SCALE = 35.0
#: At the beginning a cell is covered with this chance, so that the many empty ones do not drown the rest.
_PRIOR = 0.01


@dataclass(frozen=True, kw_only=True)
class Learning:
    """Which cells an object covers, and how much each part counts."""

    coverage_radius: float = 0.7
    """Radius of the ellipse of cells that an object covers, as a share of half its width and height."""
    dead_radius: float = 1.0
    """Cells outside of that ellipse, but in one of this radius, are not covered by a larger object behind it."""
    min_radius: float = 0.5
    """The ellipse has at least this radius, in cells."""
    coverage_weight: float = 1.0
    box_weight: float = 10.0


class DetectNet(Detector):
    """DetectNet_v2 on the features of stride 16 of a timm network. The sides of the input are multiples of 16."""

    def __init__(self, backbone: str, classes: int, *, channels: int = 3, learning: Learning | None = None) -> None:
        super().__init__()
        self.features = Features(backbone, channels, (STRIDE,))
        self.coverage = nn.Conv2d(self.features.channels[0], classes, 1)
        self.edges = nn.Conv2d(self.features.channels[0], 4, 1)
        self._learning = learning or Learning()
        # why: the first boxes reach half a unit to each side.
        for head, bias in ((self.coverage, -math.log(1 / _PRIOR - 1)), (self.edges, 0.5)):
            nn.init.normal_(head.weight, std=0.01)
            assert head.bias is not None
            nn.init.constant_(head.bias, bias)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        (features_BCHW,) = self.features(inputs_BCHW)
        # why: in half precision neither pixels nor the sum over all cells would be right.
        logits_BNK = self.coverage(features_BCHW).float().flatten(2).transpose(1, 2)
        edges_BN4 = self.edges(features_BCHW).float().flatten(2).transpose(1, 2) * _SCALE
        height, width = int(features_BCHW.shape[2]), int(features_BCHW.shape[3])
        centres_N2 = _centres(height, width, features_BCHW.device)
        if targets is not None:
            return self._loss(logits_BNK, edges_BN4, centres_N2, targets)
        # why relu: a box must not be inside out.
        edges_BN4 = edges_BN4.relu()
        boxes_BN4 = torch.cat([centres_N2 - edges_BN4[..., :2], centres_N2 + edges_BN4[..., 2:]], dim=-1)
        return boxes_BN4, logits_BNK.sigmoid()

    def fixed_layers(self) -> list[nn.Module]:
        return [self.coverage, self.edges]

    def _loss(
        self,
        logits_BNK: torch.Tensor,
        edges_BN4: torch.Tensor,
        centres_N2: torch.Tensor,
        targets: Sequence[Target],
    ) -> torch.Tensor:
        found = [objects_of(target) for target in targets]
        # why one more: so that there is an object to choose; without an area it covers nothing.
        boxes_BM4 = pad_sequence([F.pad(one.boxes, (0, 0, 0, 1)) for one in found], batch_first=True)
        labels_BM = pad_sequence([F.pad(one.labels, (0, 1)) for one in found], batch_first=True)
        owner_BN, is_covered_BN = self._cover(boxes_BM4, centres_N2)

        boxes_BN4 = boxes_BM4.gather(1, owner_BN[..., None].expand(-1, -1, 4))
        labels_BN = labels_BM.gather(1, owner_BN)
        wanted_BNK = F.one_hot(labels_BN, logits_BNK.shape[2]) * is_covered_BN[..., None]
        counts_BN = is_covered_BN | ~_is_ignored(centres_N2, targets)
        coverage = F.binary_cross_entropy_with_logits(
            logits_BNK, wanted_BNK.float(), counts_BN[..., None].float(), reduction="sum"
        )
        distances_BN4 = torch.cat([centres_N2 - boxes_BN4[..., :2], boxes_BN4[..., 2:] - centres_N2], dim=-1)
        box = F.l1_loss(edges_BN4, distances_BN4, reduction="none").mean(dim=-1) / _SCALE * is_covered_BN
        total = self._learning.coverage_weight * coverage + self._learning.box_weight * box.sum()
        return total / is_covered_BN.sum().clamp(min=1)

    def _cover(self, boxes_BM4: torch.Tensor, centres_N2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the object in front at each cell (BN), and whether it covers the cell."""
        halves_BM2 = (boxes_BM4[..., 2:] - boxes_BM4[..., :2]) / 2.0
        middles_BM2 = (boxes_BM4[..., 2:] + boxes_BM4[..., :2]) / 2.0
        away_BMN2 = (centres_N2 - middles_BM2[:, :, None]).abs()
        areas_BM = halves_BM2.prod(dim=-1)
        is_there_BM1 = areas_BM[..., None] > 0

        def within(share: float) -> torch.Tensor:
            radii_BM2 = (halves_BM2 * share).clamp(min=self._learning.min_radius * STRIDE)
            return ((away_BMN2 / radii_BM2[:, :, None]).square().sum(dim=-1) <= 1.0) & is_there_BM1

        covers_BMN = within(self._learning.coverage_radius)
        # why: an object between the middles of cells covers the one that it is in.
        holds_BMN = (away_BMN2 <= STRIDE / 2).all(dim=-1) & is_there_BM1
        covers_BMN |= holds_BMN
        # why the smallest: it has the fewest cells.
        near_BMN = covers_BMN | within(self._learning.dead_radius)
        owner_BN = torch.where(near_BMN, areas_BM[..., None], torch.inf).argmin(dim=1)
        return owner_BN, covers_BMN.gather(1, owner_BN[:, None])[:, 0]


def _centres(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the middles (N2) of the cells in pixels, row by row."""
    rows_HW, columns_HW = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return (torch.stack([columns_HW, rows_HW], dim=-1).reshape(-1, 2) + 0.5) * STRIDE


def _is_ignored(centres_N2: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Return which cells (BN) have their middle in a region to ignore."""
    pixels_N4 = torch.cat([centres_N2 - 0.5, centres_N2 + 0.5], dim=1)
    return in_ignored(pixels_N4.expand(len(targets), -1, -1), targets)

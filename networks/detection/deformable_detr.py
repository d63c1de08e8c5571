"""Deformable DETR (Zhu et al. 2021), of one stage, each layer of the decoder refining the boxes of the one before.

Shapes: B pictures, C channels, H height, W width, D layers of the decoder, Q queries, E width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .deformable import DecoderLayer, Encoder, Shape, box_head, class_head, logit
from .detector import Candidates, Detector
from .pictures import Target
from .set_loss import set_loss, to_pixels

#: The first boxes have this logit for width and height: an eighth of the canvas.
_FIRST_SIDE = -2.0


class DeformableDetr(Detector):
    """The sides of the input are multiples of 32."""

    selection = "top_k"

    def __init__(
        self, backbone: str, classes: int, *, channels: int = 3, queries: int = 300, shape: Shape | None = None
    ) -> None:
        super().__init__()
        shape = shape or Shape()
        self.encoder = Encoder(backbone, channels, shape)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.decoder_layers))
        self.queries_QE = nn.Parameter(torch.randn(queries, shape.width))
        self.places_QE = nn.Parameter(torch.randn(queries, shape.width))
        self.first = nn.Linear(shape.width, 2)
        self.kinds = nn.ModuleList(class_head(shape.width, classes) for _ in self.layers)
        self.boxes = nn.ModuleList(box_head(shape.width) for _ in self.layers)
        nn.init.xavier_uniform_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        memory = self.encoder(inputs_BCHW)
        batch, size = inputs_BCHW.shape[0], (int(inputs_BCHW.shape[3]), int(inputs_BCHW.shape[2]))
        queries_BQE = self.queries_QE.expand(batch, -1, -1)
        places_BQE = self.places_QE.expand(batch, -1, -1)
        # why: half precision is too coarse for places on a canvas.
        first_BQ2 = self.first(places_BQE).float()
        references = first_BQ2.sigmoid()
        raw_BQ4 = torch.cat([first_BQ2, torch.full_like(first_BQ2, _FIRST_SIDE)], dim=-1)
        kinds, boxes = [], []
        for layer, kind, box in zip(self.layers, self.kinds, self.boxes, strict=True):
            queries_BQE = layer(queries_BQE, places_BQE, references, memory)
            boxes_BQ4 = (raw_BQ4 + box(queries_BQE).float()).sigmoid()
            kinds.append(kind(queries_BQE).float())
            boxes.append(boxes_BQ4)
            references = boxes_BQ4.detach()
            raw_BQ4 = logit(references)
        if targets is None:
            return to_pixels(boxes[-1], size), kinds[-1].sigmoid()
        return set_loss(torch.stack(kinds), torch.stack(boxes), targets, size)

    def fixed_layers(self) -> list[nn.Module]:
        """All: neither queries nor heads of attention can be pruned, and TAO prunes no DETR."""
        return list(self.modules())

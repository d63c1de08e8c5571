"""DINO (Zhang et al. 2023): Deformable DETR with mixed query selection, contrastive denoising and look forward twice.

Shapes: B pictures, C channels, H height, W width, S cells of all levels, D layers of the decoder, Q queries, E width,
K classes, M objects of the picture with most, G groups of queries with noise, R queries with noise: G * 2 * M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from .deformable import (
    DecoderLayer,
    Encoder,
    Memory,
    Shape,
    box_head,
    class_head,
    initialize,
    logit,
    perceptron,
    place_code,
)
from .detector import Candidates, Detector
from .pictures import Target
from .set_loss import Pairs, loss_of, set_loss, shares_of, to_pixels

#: Side of the box that a cell of the finest level proposes, as a share of the canvas; it doubles from level to level.
_FINEST_SIDE = 0.05


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """How objects with noise are shown to the decoder, which is to give them back; the defaults are the paper's."""

    queries: int = 100
    """So many pairs of a right and a wrong one, or one pair for each object where there are more; 0 for none."""
    label_noise: float = 0.5
    """Half of this share of the labels is replaced."""
    box_noise: float = 1.0
    """Edges move by up to so many halves of the box; those of the wrong ones by up to twice that, at least by it."""


class Dino(Detector):
    """The sides of the input are multiples of 32."""

    selection = "top_k"

    def __init__(
        self,
        backbone: str,
        classes: int,
        *,
        channels: int = 3,
        queries: int = 900,
        shape: Shape | None = None,
        denoising: Denoising | None = None,
    ) -> None:
        super().__init__()
        shape = shape or Shape(feedforward=2048, dropout=0.0)
        self._classes = classes
        self._denoising = denoising or Denoising()
        self.encoder = Encoder(backbone, channels, shape)
        self.proposal = nn.Sequential(nn.Linear(shape.width, shape.width), nn.LayerNorm(shape.width))
        self.proposal_kind = class_head(shape.width, classes)
        self.proposal_box = box_head(shape.width)
        self.queries_QE = nn.Parameter(torch.randn(queries, shape.width))
        self.place = perceptron(2 * shape.width, shape.width, shape.width, 2)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.decoder_layers))
        self.norm = nn.LayerNorm(shape.width)
        # why one of each: as in the paper, the layers of the decoder share them.
        self.kind = class_head(shape.width, classes)
        self.box = box_head(shape.width)
        if self._denoising.queries:
            self.labels = nn.Embedding(classes, shape.width)
        initialize(self.proposal, self.place)

    def forward(self, inputs_BCHW: torch.Tensor, targets: Sequence[Target] | None = None) -> torch.Tensor | Candidates:
        memory = self.encoder(inputs_BCHW)
        batch, size = inputs_BCHW.shape[0], (int(inputs_BCHW.shape[3]), int(inputs_BCHW.shape[2]))
        proposal_kinds_BQK, proposals_BQ4 = self._propose(memory)
        # why: the queries ask what is there, the proposals only where to look (mixed query selection).
        queries_BQE = self.queries_QE[: proposals_BQ4.shape[1]].expand(batch, -1, -1)
        first_BQ4 = proposals_BQ4.detach()
        if targets is None:
            kinds_DBQK, boxes_DBQ4 = self._decode(memory, queries_BQE, first_BQ4, None)
            return to_pixels(boxes_DBQ4[-1], size), kinds_DBQK[-1].sigmoid()

        loss = set_loss(proposal_kinds_BQK[None], proposals_BQ4[None], targets, size)
        if not self._denoising.queries:
            return loss + set_loss(*self._decode(memory, queries_BQE, first_BQ4, None), targets, size)
        noise = _Noise(targets, size, self._classes, self._denoising)
        count = noise.labels_BR.shape[1]
        kinds_DBQK, boxes_DBQ4 = self._decode(
            memory,
            torch.cat([self.labels(noise.labels_BR).to(queries_BQE.dtype), queries_BQE], dim=1),
            torch.cat([noise.boxes_BR4, first_BQ4], dim=1),
            noise.may_see(queries_BQE.shape[1]),
        )
        loss = loss + set_loss(kinds_DBQK[:, :, count:], boxes_DBQ4[:, :, count:], targets, size)
        return loss + noise.loss(kinds_DBQK[:, :, :count], boxes_DBQ4[:, :, :count])

    def fixed_layers(self) -> list[nn.Module]:
        """All: neither queries nor heads of attention can be pruned, and TAO prunes no DETR."""
        return list(self.modules())

    def _propose(self, memory: Memory) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (BQK) and boxes (BQ4) of the cells that most likely see an object."""
        cells_BSE = self.proposal(memory.cells_BSE)
        kinds_BSK = self.proposal_kind(cells_BSE).float()
        sides = [
            _FINEST_SIDE * 2**level for level, (rows, columns) in enumerate(memory.sizes) for _ in range(rows * columns)
        ]
        sides_S1 = memory.centres_S2.new_tensor(sides)[:, None]
        anchors_S4 = torch.cat([memory.centres_S2, sides_S1, sides_S1], dim=1)
        boxes_BS4 = (self.proposal_box(cells_BSE).float() + logit(anchors_S4)).sigmoid()
        count = min(len(self.queries_QE), len(sides))
        chosen_BQ1 = kinds_BSK.amax(dim=-1).topk(count, dim=1).indices[..., None]
        return (
            kinds_BSK.gather(1, chosen_BQ1.expand(-1, -1, self._classes)),
            boxes_BS4.gather(1, chosen_BQ1.expand(-1, -1, 4)),
        )

    def _decode(
        self,
        memory: Memory,
        queries_BQE: torch.Tensor,
        references_BQ4: torch.Tensor,
        may_see_QQ: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (DBQK) and boxes (DBQ4) of each layer."""
        kinds, boxes = [], []
        before_BQ4 = references_BQ4
        for layer in self.layers:
            places_BQE = self.place(place_code(references_BQ4, queries_BQE.shape[2] // 2).to(queries_BQE.dtype))
            queries_BQE = layer(queries_BQE, places_BQE, references_BQ4, memory, may_see_QQ)
            found_BQE = self.norm(queries_BQE)
            change_BQ4 = self.box(found_BQE).float()
            kinds.append(self.kind(found_BQE).float())
            # why: so the layer before learns from this one's box too (look forward twice).
            boxes.append((change_BQ4 + logit(before_BQ4)).sigmoid())
            before_BQ4 = (change_BQ4 + logit(references_BQ4)).sigmoid()
            references_BQ4 = before_BQ4.detach()
        return torch.stack(kinds), torch.stack(boxes)


class _Noise:
    """The objects of a batch with noise: groups of a right and a wrong query for each object."""

    def __init__(self, targets: Sequence[Target], size: tuple[int, int], classes: int, options: Denoising) -> None:
        objects = [shares_of(target, size) for target in targets]
        boxes_BM4 = pad_sequence([boxes for boxes, _ in objects], batch_first=True)
        labels_BM = pad_sequence([labels for _, labels in objects], batch_first=True)
        counts_B = torch.tensor([len(labels) for _, labels in objects], device=boxes_BM4.device)
        if boxes_BM4.shape[1] == 0:
            # why: every parameter needs a gradient in every step, else training on several GPUs waits for it.
            boxes_BM4, labels_BM = F.pad(boxes_BM4, (0, 0, 0, 1)), F.pad(labels_BM, (0, 1))
        most = boxes_BM4.shape[1]
        self._groups = max(1, options.queries // most)
        self._pair = 2 * most
        self._total = max(1, int(counts_B.sum()) * self._groups)
        is_real_BM = torch.arange(most, device=counts_B.device) < counts_B[:, None]
        self._boxes_BR4 = boxes_BM4.repeat(1, 2 * self._groups, 1)
        self._labels_BR = labels_BM.repeat(1, 2 * self._groups)
        self._is_real_BR = is_real_BM.repeat(1, 2 * self._groups)
        is_wrong_R = (torch.arange(self._labels_BR.shape[1], device=counts_B.device) // most) % 2 == 1
        self._is_right_BR = self._is_real_BR & ~is_wrong_R
        self.labels_BR = self._noisy_labels(classes, options.label_noise)
        self.boxes_BR4 = self._noisy_boxes(is_wrong_R, options.box_noise)

    def may_see(self, queries: int) -> torch.Tensor:
        """Return whether a query (row) may see another: nothing with noise, unless it is of the same group."""
        device, noisy = self.boxes_BR4.device, self._groups * self._pair
        group_T = torch.cat(
            [torch.arange(noisy, device=device) // self._pair, torch.full((queries,), -1, device=device)]
        )
        return (group_T[:, None] == group_T) | (group_T == -1)

    def loss(self, kinds_DBRK: torch.Tensor, boxes_DBR4: torch.Tensor) -> torch.Tensor:
        """Return the loss of answers of which the right ones are to be the objects, and the wrong ones nothing."""
        layers = len(kinds_DBRK)
        picture_P, query_P = self._is_right_BR.nonzero(as_tuple=True)
        pairs = Pairs(
            torch.arange(layers, device=picture_P.device).repeat_interleave(len(picture_P)),
            picture_P.repeat(layers),
            query_P.repeat(layers),
            self._boxes_BR4[picture_P, query_P].repeat(layers, 1),
            self._labels_BR[picture_P, query_P].repeat(layers),
        )
        return loss_of(kinds_DBRK, boxes_DBR4, pairs, self._is_real_BR.expand(layers, -1, -1), self._total)

    def _noisy_labels(self, classes: int, share: float) -> torch.Tensor:
        device = self._labels_BR.device
        # why not on the device: numbers of torch's global generator are the same everywhere, and go on when resumed.
        is_other_BR = (torch.rand(self._labels_BR.shape) < share / 2).to(device)
        return torch.where(is_other_BR, torch.randint(classes, self._labels_BR.shape).to(device), self._labels_BR)

    def _noisy_boxes(self, is_wrong_R: torch.Tensor, scale: float) -> torch.Tensor:
        shape, device = self._boxes_BR4.shape, self._boxes_BR4.device
        distance_BR4 = torch.rand(shape).to(device) + is_wrong_R[:, None]
        sign_BR4 = (torch.randint(2, shape) * 2 - 1).to(device)
        halves_BR4 = self._boxes_BR4[..., 2:].repeat(1, 1, 2) / 2.0
        corners_BR4 = box_convert(self._boxes_BR4, "cxcywh", "xyxy") + sign_BR4 * distance_BR4 * halves_BR4 * scale
        corners_BR4 = corners_BR4.clamp(0.0, 1.0)
        low, high = corners_BR4[..., :2], corners_BR4[..., 2:]
        # why: far enough away, the edges change places.
        return box_convert(torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1), "xyxy", "cxcywh")

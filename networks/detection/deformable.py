"""The transformer of Deformable DETR (Zhu et al. 2021), which DINO has as well.

It is written out here so that the names in weight files do not change with a library.

Shapes: B pictures, C channels, H height, W width, L levels, S cells of all levels, Q queries, E width, N heads,
P points of a head in a level. Places are shares of width and height of the canvas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .features import Features

_STRIDES = (8, 16, 32)
#: The features of the backbone, and one level that is half as large as its last.
LEVELS = len(_STRIDES) + 1

_POINTS = 4
_NORM_GROUPS = 32
_TEMPERATURE = 10000.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a transformer; the defaults are those of the paper."""

    width: int = 256
    """A multiple of 32 and of `heads`."""
    heads: int = 8
    feedforward: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1


@dataclass(frozen=True)
class Memory:
    """What the encoder made of the pictures."""

    cells_BSE: torch.Tensor
    centres_S2: torch.Tensor
    """Middles of the cells."""
    sizes: list[tuple[int, int]]
    """Height and width of each level."""


class Encoder(nn.Module):
    """Features of a timm network, seen by deformable attention."""

    def __init__(self, backbone: str, channels: int, shape: Shape) -> None:
        super().__init__()
        self.features = Features(backbone, channels, _STRIDES)
        *_, last = self.features.channels
        self.inputs = nn.ModuleList(
            [nn.Conv2d(inputs, shape.width, 1) for inputs in self.features.channels]
            + [nn.Conv2d(last, shape.width, 3, stride=2, padding=1)]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_NORM_GROUPS, shape.width) for _ in range(LEVELS))
        self.levels_LE = nn.Parameter(torch.empty(LEVELS, shape.width))
        self.layers = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.encoder_layers))
        initialize(self.inputs, self.layers)
        nn.init.normal_(self.levels_LE)

    def forward(self, inputs_BCHW: torch.Tensor) -> Memory:
        maps = list(self.features(inputs_BCHW))
        maps.append(maps[-1])
        cells, places, centres, sizes = [], [], [], []
        for features, convolution, norm, level_E in zip(maps, self.inputs, self.norms, self.levels_LE, strict=True):
            features_BEHW = norm(convolution(features))
            height, width = int(features_BEHW.shape[2]), int(features_BEHW.shape[3])
            centres_HW2 = _centres(height, width, features_BEHW.device)
            cells.append(features_BEHW.flatten(2).transpose(1, 2))
            places.append(place_code(centres_HW2, level_E.shape[0] // 2) + level_E)
            centres.append(centres_HW2)
            sizes.append((height, width))
        cells_BSE, places_SE, centres_S2 = torch.cat(cells, dim=1), torch.cat(places), torch.cat(centres)
        for layer in self.layers:
            cells_BSE = layer(cells_BSE, places_SE, centres_S2, sizes)
        return Memory(cells_BSE, centres_S2, sizes)


class _EncoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = _DeformableAttention(shape)
        self.attention_norm = nn.LayerNorm(shape.width)
        self.feedforward = _feedforward(shape)
        self.feedforward_norm = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self,
        cells_BSE: torch.Tensor,
        places_SE: torch.Tensor,
        centres_S2: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        seen = self.attention(cells_BSE + places_SE, centres_S2[None], cells_BSE, sizes)
        cells_BSE = self.attention_norm(cells_BSE + self.dropout(seen))
        return self.feedforward_norm(cells_BSE + self.dropout(self.feedforward(cells_BSE)))


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the pictures."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.among = _SelfAttention(shape)
        self.among_norm = nn.LayerNorm(shape.width)
        self.attention = _DeformableAttention(shape)
        self.attention_norm = nn.LayerNorm(shape.width)
        self.feedforward = _feedforward(shape)
        self.feedforward_norm = nn.LayerNorm(shape.width)
        self.dropout = nn.Dropout(shape.dropout)
        initialize(self)

    def forward(
        self,
        queries_BQE: torch.Tensor,
        places_BQE: torch.Tensor,
        references: torch.Tensor,
        memory: Memory,
        may_see_QQ: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`references`: where each query looks, a place (BQ2), or a box as middle and size (BQ4)."""
        seen = self.among(queries_BQE + places_BQE, queries_BQE, may_see_QQ)
        queries_BQE = self.among_norm(queries_BQE + self.dropout(seen))
        seen = self.attention(queries_BQE + places_BQE, references, memory.cells_BSE, memory.sizes)
        queries_BQE = self.attention_norm(queries_BQE + self.dropout(seen))
        return self.feedforward_norm(queries_BQE + self.dropout(self.feedforward(queries_BQE)))


class _SelfAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads = shape.heads
        self.query = nn.Linear(shape.width, shape.width)
        self.key = nn.Linear(shape.width, shape.width)
        self.value = nn.Linear(shape.width, shape.width)
        self.output = nn.Linear(shape.width, shape.width)

    def forward(
        self, placed_BQE: torch.Tensor, queries_BQE: torch.Tensor, may_see_QQ: torch.Tensor | None
    ) -> torch.Tensor:
        query, key, value = self.query(placed_BQE), self.key(placed_BQE), self.value(queries_BQE)
        seen_BNQE = F.scaled_dot_product_attention(
            self._by_head(query), self._by_head(key), self._by_head(value), may_see_QQ
        )
        return self.output(seen_BNQE.transpose(1, 2).flatten(2))

    def _by_head(self, values_BQE: torch.Tensor) -> torch.Tensor:
        batch, count, width = values_BQE.shape
        return values_BQE.reshape(batch, count, self._heads, width // self._heads).transpose(1, 2)


class _DeformableAttention(nn.Module):
    """Each query looks at a few points of every level, which it chooses itself (equation 3 of the paper)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._heads = shape.heads
        self.offsets = nn.Linear(shape.width, shape.heads * LEVELS * _POINTS * 2)
        self.weights = nn.Linear(shape.width, shape.heads * LEVELS * _POINTS)
        self.value = nn.Linear(shape.width, shape.width)
        self.output = nn.Linear(shape.width, shape.width)

    @torch.no_grad()
    def spread(self) -> None:
        """Let each head look into a direction of its own at first, each point further than the one before."""
        angles_N = torch.arange(self._heads) * (2.0 * math.pi / self._heads)
        directions_N2 = torch.stack([angles_N.cos(), angles_N.sin()], dim=-1)
        directions_N2 = directions_N2 / directions_N2.abs().amax(dim=-1, keepdim=True)
        steps_P = torch.arange(1.0, _POINTS + 1)
        bias_NLP2 = directions_N2[:, None, None] * steps_P[:, None].expand(self._heads, LEVELS, _POINTS, 1)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.offsets.bias.copy_(bias_NLP2.flatten())

    def forward(
        self,
        queries_BQE: torch.Tensor,
        references: torch.Tensor,
        cells_BSE: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        batch, count, width = queries_BQE.shape
        heads, levels = self._heads, len(sizes)
        # why: places of points are shares of the canvas, for which half precision is too coarse.
        offsets = self.offsets(queries_BQE).float().reshape(batch, count, heads, levels, _POINTS, 2)
        if references.shape[-1] == 2:
            # In cells of the level.
            units_L2 = torch.tensor([[1.0 / columns, 1.0 / rows] for rows, columns in sizes], device=offsets.device)
            points = references[:, :, None, None, None] + offsets * units_L2[:, None]
        else:
            middles, halves = references[:, :, None, None, None, :2], references[:, :, None, None, None, 2:] / 2.0
            points = middles + offsets / float(_POINTS) * halves
        weights_BQNV = self.weights(queries_BQE).float().reshape(batch, count, heads, levels * _POINTS).softmax(dim=-1)

        levels_BSE = self.value(cells_BSE).float().split([rows * columns for rows, columns in sizes], dim=1)
        seen = []
        for number, ((rows, columns), level_BSE) in enumerate(zip(sizes, levels_BSE, strict=True)):
            maps = level_BSE.transpose(1, 2).reshape(batch * heads, width // heads, rows, columns)
            grid = (2.0 * points[:, :, :, number] - 1.0).transpose(1, 2).flatten(0, 1)
            seen.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        # Axes: batch * heads, width of a head, queries, points of all levels.
        weights = weights_BQNV.transpose(1, 2).flatten(0, 1)[:, None]
        mixed = (torch.cat(seen, dim=-1) * weights).sum(dim=-1)
        return self.output(mixed.reshape(batch, width, count).transpose(1, 2))


def _feedforward(shape: Shape) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.width, shape.feedforward),
        nn.ReLU(),
        nn.Dropout(shape.dropout),
        nn.Linear(shape.feedforward, shape.width),
    )


def perceptron(inputs: int, width: int, outputs: int, layers: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    sizes = [inputs, *[width] * (layers - 1), outputs]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def box_head(width: int) -> nn.Sequential:
    """Return a perceptron that changes nothing at first."""
    head = perceptron(width, width, 4, 3)
    last = head[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return head


def class_head(width: int, classes: int, prior: float = 0.01) -> nn.Linear:
    """Return a layer that at first sees every class with the chance `prior`."""
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, -math.log(1 / prior - 1))
    return head


def initialize(*parts: nn.Module) -> None:
    """Give layers the first weights of Deformable DETR."""
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, _DeformableAttention):
            layer.spread()


def place_code(places: torch.Tensor, width: int) -> torch.Tensor:
    """Return `width` sines and cosines of each coordinate, of any number of coordinates in the last axis."""
    waves = torch.arange(width // 2, dtype=torch.float32, device=places.device) * 2.0 / width
    angles = places[..., None].float() * (2.0 * math.pi) / _TEMPERATURE**waves
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def logit(shares: torch.Tensor) -> torch.Tensor:
    """Return the inverse of the sigmoid, finite for 0 and 1 too."""
    return torch.logit(shares, eps=1e-5)


def _centres(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the middles (S2) of the cells, row by row."""
    rows_HW, columns_HW = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height,
        (torch.arange(width, device=device) + 0.5) / width,
        indexing="ij",
    )
    return torch.stack([columns_HW, rows_HW], dim=-1).reshape(-1, 2)

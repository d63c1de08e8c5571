"""What a mask is told by a box and by colours alone.

As in "Vision Transformers Are Good Mask Auto-Labelers" (Lan et al., CVPR 2023), section 3.4.
Shape legend: B boxes, H height, W width, K neighbours of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

_TINY = 1e-5


def mil_loss(masks_BHW: torch.Tensor, boxes_BHW: torch.Tensor) -> torch.Tensor:
    """Return the loss of each box, B: each row and column is a bag, and somewhere in it is the object or nowhere.

    `masks_BHW` are probabilities; `boxes_BHW` is 1 inside the box and 0 outside.
    """
    rows = _dice(masks_BHW.amax(dim=2), boxes_BHW.amax(dim=2))
    columns = _dice(masks_BHW.amax(dim=1), boxes_BHW.amax(dim=1))
    return (rows + columns) / 2


@dataclass(frozen=True, kw_only=True)
class Field:
    """A random field over the pixels, in which neighbours of one colour are of one kind."""

    zeta: float
    """How unlike their colours, from 0 to 1, may be."""
    omega: float
    """How strongly they hold together."""
    kernel: int
    """Side of a pixel's neighbourhood, odd."""
    iterations: int
    high: float
    """Pixels this sure are of the object."""
    low: float
    """Pixels less sure than this are not."""


@torch.no_grad()
def mean_field(masks_BHW: torch.Tensor, images_B3HW: torch.Tensor, field: Field) -> torch.Tensor:
    """Return how likely each pixel is of the object, when its neighbours are asked too.

    `images_B3HW` are from 0 to 1. This is the mean-field approximation: every pixel follows the mean of its neighbours,
    all at once.
    """
    own = torch.logit(masks_BHW, eps=_TINY)
    ties_BKHW = _ties(images_B3HW, field)
    likely = masks_BHW
    for _ in range(field.iterations):
        # why a half: beyond the edge of the crop nobody knows.
        around = _neighbours(likely[:, None], field.kernel, 0.5)[:, 0]
        likely = torch.sigmoid(own + (ties_BKHW * (2 * around - 1)).sum(dim=1))
    return likely


def crf_loss(masks_BHW: torch.Tensor, likely_BHW: torch.Tensor, field: Field) -> torch.Tensor:
    """Return the loss of each box, B, against what the field has told of its pixels; 0 where that is no object."""
    is_object = likely_BHW >= field.high
    counts = is_object | (likely_BHW <= field.low)
    loss = _dice((masks_BHW * counts).flatten(1), is_object.flatten(1).to(masks_BHW.dtype))
    return loss * is_object.flatten(1).any(dim=1)


def _dice(found_BN: torch.Tensor, wanted_BN: torch.Tensor) -> torch.Tensor:
    overlap = (found_BN * wanted_BN).sum(dim=1)
    return 1 - 2 * overlap / ((found_BN**2).sum(dim=1) + (wanted_BN**2).sum(dim=1)).clamp(min=_TINY)


def _ties(images_B3HW: torch.Tensor, field: Field) -> torch.Tensor:
    """Return how strongly each pixel is tied to its neighbours, BKHW."""
    around = _neighbours(images_B3HW, field.kernel, 0.0)
    distance = (around - images_B3HW[:, :, None]).square().sum(dim=1)
    return field.omega * torch.exp(-distance / (2 * field.zeta**2))


def _neighbours(values_BCHW: torch.Tensor, kernel: int, beyond: float) -> torch.Tensor:
    """Return the values around each pixel, BCKHW, with `beyond` for those outside."""
    reach = kernel // 2
    height, width = values_BCHW.shape[-2:]
    padded = F.pad(values_BCHW, (reach,) * 4, value=beyond)
    places = [(y, x) for y in range(kernel) for x in range(kernel) if (y, x) != (reach, reach)]
    return torch.stack([padded[..., y : y + height, x : x + width] for y, x in places], dim=2)

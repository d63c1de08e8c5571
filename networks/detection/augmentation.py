"""What training does to pictures and their boxes. All random numbers come from torch's global generator.

Shapes: B batch, C channels, H height, W width, N objects of one picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torchvision.transforms.v2 import functional

from .geometry import PADDING, visible
from .masks import resize
from .pictures import Target

#: A picture, CHW uint8, with its boxes.
Example = tuple[torch.Tensor, Target]

#: What share of red, green and blue is brightness.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How much of what. The defaults do nothing."""

    flip: float = 0.0
    """Probability of left and right changing places."""
    zoom: float = 0.0
    """Pictures are enlarged or shrunk up to this factor more, at random places: 0.5 is 1/1.5 to 1.5 times."""
    mosaic: float = 0.0
    """Probability of four pictures in one, a piece of each."""
    brightness: float = 0.0
    """Up to this share brighter or darker."""
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Up to this part of the colour circle, 0 to 0.5."""
    min_visible: float = 0.3
    """Boxes of which less of the area remains are left out."""

    @property
    def changes_colour(self) -> bool:
        return max(self.brightness, self.contrast, self.saturation, self.hue) > 0


def augment(
    pixels_BCHW: torch.Tensor, targets: list[Target], options: Augmentation, draw: Callable[[int], list[Example]]
) -> tuple[torch.Tensor, list[Target]]:
    """Return the changed pictures and boxes; `draw(n)` gives n more examples at random, for mosaics.

    `pixels_BCHW` is changed in place.
    """
    for i in range(len(targets)):
        example = pixels_BCHW[i], targets[i]
        if _happens(options.mosaic):
            example = mosaic([example, *draw(3)], options.min_visible)
        if options.zoom > 0:
            example = zoom(example, options)
        if _happens(options.flip):
            example = flip(example)
        pixels_BCHW[i], targets[i] = example
    if options.changes_colour:
        pixels_BCHW = change_colours(pixels_BCHW, options)
    return pixels_BCHW, targets


def flip(example: Example) -> Example:
    pixels_CHW, target = example
    width = float(pixels_CHW.shape[-1])
    x1, y1, x2, y2 = target.boxes.unbind(dim=1)
    boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    masks = None if target.masks is None else target.masks.flip(-1)
    return pixels_CHW.flip(-1), replace(target, boxes=boxes, masks=masks)


def zoom(example: Example, options: Augmentation) -> Example:
    """Return a random piece enlarged to the whole canvas, or the whole shrunk onto a grey one."""
    pixels_CHW, target = example
    height, width = pixels_CHW.shape[-2:]
    limit = math.log1p(options.zoom)
    factor = math.exp(_uniform(-limit, limit))
    masks = target.masks
    if factor >= 1:
        w, h = max(1, round(width / factor)), max(1, round(height / factor))
        left, top = _below(width - w + 1), _below(height - h + 1)
        piece = pixels_CHW[:, top : top + h, left : left + w]
        changed = functional.resize(piece, [height, width], antialias=True)
        shift, scale = (-left, -top), (width / w, height / h)
        boxes = _moved(target.boxes, shift, scale, (0, 0))
        if masks is not None:
            masks = resize(masks[:, top : top + h, left : left + w], height, width)
    else:
        w, h = max(1, round(width * factor)), max(1, round(height * factor))
        left, top = _below(width - w + 1), _below(height - h + 1)
        changed = torch.full_like(pixels_CHW, PADDING)
        changed[:, top : top + h, left : left + w] = functional.resize(pixels_CHW, [h, w], antialias=True)
        boxes = _moved(target.boxes, (0, 0), (w / width, h / height), (left, top))
        if masks is not None:
            masks = _placed(resize(masks, h, w), (left, top), (width, height))
    return changed, _cut(replace(target, boxes=boxes, masks=masks), (width, height), options.min_visible)


def mosaic(examples: list[Example], min_visible: float) -> Example:
    """Return a picture of four pieces that meet at a random point, each cut at random from one example."""
    canvas = torch.empty_like(examples[0][0])
    height, width = canvas.shape[-2:]
    x, y = round(width * _uniform(0.25, 0.75)), round(height * _uniform(0.25, 0.75))
    parts = []
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    for (pixels_CHW, target), (x1, y1, x2, y2) in zip(examples, quarters, strict=True):
        w, h = x2 - x1, y2 - y1
        left, top = _below(width - w + 1), _below(height - h + 1)
        canvas[:, y1:y2, x1:x2] = pixels_CHW[:, top : top + h, left : left + w]
        masks = None if target.masks is None else target.masks[:, top : top + h, left : left + w]
        moved = replace(target, boxes=_moved(target.boxes, (-left, -top), (1, 1), (0, 0)), masks=masks)
        inside = _cut(moved, (w, h), min_visible)
        masks = None if inside.masks is None else _placed(inside.masks, (x1, y1), (width, height))
        parts.append(replace(inside, boxes=_moved(inside.boxes, (x1, y1), (1, 1), (0, 0)), masks=masks))
    found = [part.masks for part in parts if part.masks is not None]
    return canvas, Target(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.is_ignored for part in parts]),
        torch.cat(found) if found else None,
    )


def change_colours(pixels_BCHW: torch.Tensor, options: Augmentation) -> torch.Tensor:
    """Return pictures with brightness, contrast, saturation and hue of their own each.

    All four are linear in red, green and blue, so that one matrix a picture does them at once.
    """
    batch, channels = pixels_BCHW.shape[:2]
    flat = pixels_BCHW.flatten(2).float()
    brightness = _factors(options.brightness, batch)
    contrast = _factors(options.contrast, batch)
    if channels == 1:
        matrix = (brightness * contrast).reshape(batch, 1, 1)
        mean = flat.mean(dim=2)
    else:
        luma = torch.tensor(_LUMA)
        saturation = _factors(options.saturation, batch).reshape(batch, 1, 1)
        matrix = saturation * torch.eye(3) + (1 - saturation) * luma.expand(3, 3)
        if options.hue > 0:
            matrix = torch.stack([_hue(_uniform(-options.hue, options.hue)) for _ in range(batch)]) @ matrix
        matrix = matrix * (brightness * contrast).reshape(batch, 1, 1)
        mean = (flat.mean(dim=2) @ luma).unsqueeze(1)
    offset = ((1 - contrast) * brightness).unsqueeze(1) * mean
    changed = torch.baddbmm(offset.unsqueeze(2).expand(batch, channels, 1), matrix, flat)
    return changed.round_().clamp_(0.0, 255.0).to(torch.uint8).reshape(pixels_BCHW.shape)


def _hue(turn: float) -> torch.Tensor:
    """Return the matrix that turns colours by a part of the circle and leaves grey as it is: a rotation in YIQ."""
    to_yiq = torch.tensor([[*_LUMA], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    rotation = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    return torch.linalg.inv(to_yiq) @ rotation @ to_yiq


def _moved(
    boxes_N4: torch.Tensor, before: tuple[int, int], scale: tuple[float, float], after: tuple[int, int]
) -> torch.Tensor:
    return (boxes_N4 + torch.tensor([*before, *before])) * torch.tensor([*scale, *scale]) + torch.tensor(
        [*after, *after]
    )


def _cut(target: Target, size: tuple[int, int], min_visible: float) -> Target:
    cut, keeps = visible(target.boxes, size, min_visible)
    return replace(target, boxes=cut).of(keeps)


def _placed(masks_NHW: torch.Tensor, corner: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """Return masks with their left upper corner at `corner` of a canvas of `size`, both across first."""
    (left, top), (width, height) = corner, size
    canvas = masks_NHW.new_zeros(len(masks_NHW), height, width)
    canvas[:, top : top + masks_NHW.shape[1], left : left + masks_NHW.shape[2]] = masks_NHW
    return canvas


def _happens(probability: float) -> bool:
    return probability > 0 and bool(torch.rand(()) < probability)


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _below(limit: int) -> int:
    return int(torch.randint(limit, ()))


def _factors(strength: float, count: int) -> torch.Tensor:
    return 1 + strength * (2 * torch.rand(count) - 1) if strength > 0 else torch.ones(count)

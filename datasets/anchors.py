"""The kmeans service: the sizes of boxes that a network with anchors should begin from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..schemas.errors import DatasetError
from .boxes import BoxSet

Floats = npt.NDArray[np.float64]

_RESTARTS = 5
_MAX_ROUNDS = 300


@dataclass(frozen=True, slots=True)
class Anchors:
    """Widths and heights in pixels of the network's input, smallest area first, and how well they fit."""

    sizes: tuple[tuple[float, float], ...]
    mean_iou: float
    """IoU of a box with its best anchor when both have the same corner, as a mean over all boxes."""


def box_sizes(boxes: BoxSet, input_size: tuple[int, int], *, letterbox: bool = True, min_side: float = 1.0) -> Floats:
    """Return width and height of all boxes in pixels of a network's input of `input_size` (width, height).

    Regions to ignore, crowds and boxes with a side below `min_side` there do not count.
    """
    sizes = []
    for picture in boxes.pictures:
        scale_x, scale_y = input_size[0] / picture.width, input_size[1] / picture.height
        if letterbox:
            scale_x = scale_y = min(scale_x, scale_y)
        sizes += [(box.width * scale_x, box.height * scale_y) for box in picture.boxes if not box.is_ignored]
    found = np.array(sizes, dtype=np.float64).reshape(-1, 2)
    return found[(found >= min_side).all(axis=1)]


def kmeans_anchors(sizes_N2: Floats, count: int, *, seed: int = 0) -> Anchors:
    """Return the `count` sizes that the boxes lie nearest to, by 1 - IoU; the best of five beginnings.

    Raises:
        DatasetError: there are fewer different sizes than anchors.
    """
    different = len(np.unique(sizes_N2, axis=0))
    if different < count:
        raise DatasetError(
            f"The boxes have {different} different sizes, too few for {count} anchors.",
            hint="Ask for fewer anchors, or use a larger data set.",
        )
    rng = np.random.default_rng(seed)
    best = max((_lloyd(sizes_N2, _beginning(sizes_N2, count, rng)) for _ in range(_RESTARTS)), key=lambda run: run[1])
    anchors = best[0][np.argsort(best[0].prod(axis=1), kind="stable")]
    return Anchors(tuple((float(w), float(h)) for w, h in anchors), best[1])


def shape_iou(sizes_N2: Floats, anchors_K2: Floats) -> Floats:
    """Return the IoU (N x K) of boxes and anchors that share a corner."""
    common = np.minimum(sizes_N2[:, None], anchors_K2[None]).prod(axis=2)
    return np.asarray(common / (sizes_N2.prod(axis=1)[:, None] + anchors_K2.prod(axis=1)[None] - common))


def _beginning(sizes_N2: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return `count` of the sizes, far from each other (k-means++)."""
    chosen = sizes_N2[[rng.integers(len(sizes_N2))]]
    while len(chosen) < count:
        distance = (1 - shape_iou(sizes_N2, chosen).max(axis=1)) ** 2
        # why: rounding leaves equal sizes a distance of some 1e-32, which must never win.
        distance[distance < 1e-20] = 0
        chosen = np.vstack([chosen, sizes_N2[rng.choice(len(sizes_N2), p=distance / distance.sum())]])
    return chosen


def _lloyd(sizes_N2: Floats, anchors_K2: Floats) -> tuple[Floats, float]:
    nearest = shape_iou(sizes_N2, anchors_K2).argmax(axis=1)
    best = anchors_K2, _mean_iou(sizes_N2, anchors_K2)
    for _ in range(_MAX_ROUNDS):
        groups = [sizes_N2[nearest == k] for k in range(len(anchors_K2))]
        # why: an anchor that lost all its boxes stays where it is.
        anchors_K2 = np.array(
            [group.mean(axis=0) if len(group) else old for group, old in zip(groups, anchors_K2, strict=True)]
        )
        fit = _mean_iou(sizes_N2, anchors_K2)
        if fit > best[1]:
            best = anchors_K2, fit
        now = shape_iou(sizes_N2, anchors_K2).argmax(axis=1)
        if (now == nearest).all():
            break
        nearest = now
    return best


def _mean_iou(sizes_N2: Floats, anchors_K2: Floats) -> float:
    return float(shape_iou(sizes_N2, anchors_K2).max(axis=1).mean())

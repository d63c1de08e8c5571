"""Masks of objects: pixels, COCO's packed run lengths, and the coarse cells that networks give.

Shapes: N objects, H height, W width, M cells along each side of a box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval.core import mask as coco
from torch.nn import functional as F
from torchvision.transforms.v2 import functional

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import Polygons, RunLengths
from ...datasets.run_lengths import decode_runs

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def pack(mask_HW: Bools) -> RunLengths:
    """Return pixels as COCO packs them."""
    return _packed(coco.encode(np.asfortranarray(mask_HW, np.uint8)))


def unpack(mask: RunLengths) -> Bools:
    """Return the pixels, HW, of a packed mask."""
    found: npt.NDArray[np.uint8] = coco.decode(to_coco(mask))
    return found.astype(np.bool_)


def to_coco(mask: RunLengths) -> dict[str, Any]:
    """Return a packed mask as it stands in COCO's JSON."""
    return {"size": [mask.height, mask.width], "counts": mask.counts}


def masks_of(index: BoxIndex, i: int) -> tuple[RunLengths, ...]:
    """Return the masks of the boxes of image `i`; one without has all of its box."""
    width, height = int(index.widths[i]), int(index.heights[i])
    rows = index.of(i)
    found = []
    for row in range(rows.start, rows.stop):
        mask = index.mask(row)
        if mask is None:
            x1, y1, x2, y2 = map(float, index.edges[row])
            mask = Polygons(((x1, y1, x2, y1, x2, y2, x1, y2),))
        if isinstance(mask, RunLengths):
            found.append(pack(decode_runs(mask)))
        else:
            parts = coco.frPyObjects([list(part) for part in mask.parts], height, width)
            found.append(_packed(coco.merge(parts, 0)))
    return tuple(found)


def resize(masks_NHW: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return bool masks at another size: what is covered by at least half."""
    if masks_NHW.shape[1:] == (height, width):
        return masks_NHW
    if not len(masks_NHW):
        return masks_NHW.new_zeros(0, height, width)
    return functional.resize(masks_NHW.to(torch.uint8) * 255, [height, width], antialias=True) >= 128


def paste(cells_NMM: Floats, boxes_N4: Floats, size: tuple[int, int]) -> tuple[RunLengths, ...]:
    """Return the masks in pictures of `size` (width, height) that fill boxes with `cells_NMM`, each 0 to 1.

    A pixel belongs to an object when the cells around its middle say at least one half.
    """
    width, height = size
    found = []
    for cells_MM, (x1, y1, x2, y2) in zip(torch.from_numpy(cells_NMM).float(), boxes_N4.tolist(), strict=True):
        left, top = max(0, int(np.floor(x1))), max(0, int(np.floor(y1)))
        right, bottom = min(width, int(np.ceil(x2))), min(height, int(np.ceil(y2)))
        mask_HW = np.zeros((height, width), np.bool_)
        if right > left and bottom > top and x2 > x1 and y2 > y1:
            across = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
            down = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
            places = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2)[None]
            # why the border: cells end in the middle of the last one, half a cell inside of the box.
            inside = F.grid_sample(cells_MM[None, None], places, padding_mode="border", align_corners=False)[0, 0]
            mask_HW[top:bottom, left:right] = (inside >= 0.5).numpy()
        found.append(pack(mask_HW))
    return tuple(found)


def overlaps(cells_NX: torch.Tensor, others_KX: torch.Tensor) -> torch.Tensor:
    """Return the IoU, NK, of masks as cells of the same box; two empty ones are the same."""
    ours, theirs = (cells_NX >= 0.5).float(), (others_KX >= 0.5).float()
    common = ours @ theirs.T
    union = ours.sum(dim=1)[:, None] + theirs.sum(dim=1)[None] - common
    return torch.where(union > 0, common / union.clamp(min=1.0), 1.0)


def chosen(masks: Sequence[RunLengths], which: Bools) -> tuple[RunLengths, ...]:
    return tuple(mask for mask, is_in in zip(masks, which, strict=True) if is_in)


def _packed(found: dict[str, Any]) -> RunLengths:
    counts = found["counts"]
    height, width = found["size"]
    return RunLengths(int(height), int(width), counts if isinstance(counts, str) else counts.decode("ascii"))

"""What a model finds in the pictures of an index, in the pixels of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...datasets.box_index import BoxIndex
from ...schemas.reporting import Reporter
from ..predictors import Predictor, open_model
from .masks import paste
from .metrics import Detections
from .model import Record, load_model, parse_record
from .pictures import Pictures
from .selection import Limits


def open_predictor(path: Path) -> Predictor[Record]:
    """Return the model in a .safetensors, .onnx or .engine file; JobFailed when it is none of this family."""
    return open_model(path, load_model, parse_record)


def pictures_of(index: BoxIndex, record: Record, *, role: str | None = None, cache_mb: int = 1024) -> Pictures:
    """Return the pictures of an index as the network of `record` takes them; with their boxes where it has a role."""
    return Pictures(
        index,
        (record.width, record.height),
        classes=None if role is None else record.classes,
        role=role or "",
        channels=record.channels,
        resizing=record.resizing,
        masks=role is not None and record.mask_side > 0,
        cache_mb=cache_mb,
    )


def predict_all(
    predictor: Predictor[Record], pictures: Pictures, limits: Limits, batch_size: int, reporter: Reporter
) -> list[Detections]:
    """Return what is found in all pictures, in their order."""
    found: dict[int, Detections] = {}
    for numbers, pixels in pictures.batches(batch_size):
        candidates = torch.from_numpy(predictor.logits(pixels))
        found.update(detections(candidates, numbers, pictures, predictor.record, limits))
        reporter.progress(0.95 * len(found) / len(pictures), f"{len(found)} of {len(pictures)} pictures")
    return [found[i] for i in range(len(pictures))]


def detections(
    candidates_BNX: torch.Tensor, numbers: Sequence[int], pictures: Pictures, record: Record, limits: Limits
) -> dict[int, Detections]:
    """Return what is told of the candidates of the pictures `numbers`, see `Record.select`."""
    found = {}
    for i, candidates_NX in zip(numbers, candidates_BNX, strict=True):
        selection = record.select(candidates_NX, limits)
        boxes, scores, labels = (part.cpu().numpy() for part in selection[:3])
        size = int(pictures.index.widths[i]), int(pictures.index.heights[i])
        edges = pictures.fit(i).to_picture(boxes.astype(np.float32), size)
        masks = None
        if record.mask_side:
            masks = paste(record.cells(candidates_NX, selection).float().cpu().numpy(), edges, size)
        found[i] = Detections(edges, scores, labels.astype(np.int64), masks)
    return found

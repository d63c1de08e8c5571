"""Logits of classifiers, from weights, ONNX graphs and engines alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...schemas.reporting import Reporter
from ..images import Images
from ..predictors import Floats, Predictor, open_model
from .model import Record, load_model, parse_record


def open_predictor(path: Path) -> Predictor[Record]:
    """Return the model in a .safetensors, .onnx or .engine file; JobFailed when it is no classifier."""
    return open_model(path, load_model, parse_record)


def predict_all(predictor: Predictor[Record], images: Images, batch_size: int, reporter: Reporter) -> Floats:
    """Return the logits of all images, in their order."""
    parts: list[Floats] = []
    done = 0
    for numbers, pixels in images.batches(batch_size):
        parts.append(predictor.logits(pixels))
        done += len(numbers)
        reporter.progress(0.95 * done / len(images), f"{done} of {len(images)} images")
    return np.concatenate(parts)

"""One way to get logits from weights, ONNX graphs and engines alike."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...schemas.errors import JobFailed
from ...schemas.reporting import Reporter
from ..devices import choose_device
from ..onnx_tools import GraphSession
from ..tensorrt_engine import EngineSession
from ..weights import count_parameters
from .data import Images
from .model import Record, load_model, normalize, parse_record

Floats = npt.NDArray[np.float32]


class Predictor(Protocol):
    """A model that is ready to use."""

    record: Record
    parameter_count: int | None

    def logits(self, pixels_BCHW: torch.Tensor) -> Floats: ...


class TorchPredictor:
    """Weights, on the GPU where there is one."""

    def __init__(self, model: nn.Module, record: Record) -> None:
        self.record = record
        self.parameter_count: int | None = count_parameters(model)
        self._device = choose_device()
        self._model = model.to(self._device).eval()

    @torch.inference_mode()
    def logits(self, pixels_BCHW: torch.Tensor) -> Floats:
        return self._model(normalize(pixels_BCHW.to(self._device), self.record)).float().cpu().numpy()


class SessionPredictor:
    """A graph in ONNX Runtime or an engine in TensorRT."""

    def __init__(self, session: GraphSession | EngineSession, name: str) -> None:
        self.record = parse_record(session.record(), name)
        self.parameter_count: int | None = None
        self._session = session

    def logits(self, pixels_BCHW: torch.Tensor) -> Floats:
        return self._session.run(normalize(pixels_BCHW, self.record).numpy())


def open_predictor(path: Path) -> Predictor:
    """Return the model in a .safetensors, .onnx or .engine file.

    Raises:
        JobFailed: no model of this network.
    """
    match path.suffix:
        case ".safetensors":
            return TorchPredictor(*load_model(path))
        case ".onnx":
            return SessionPredictor(GraphSession(path), path.name)
        case ".engine":
            return SessionPredictor(EngineSession(path), path.name)
        case _:
            raise JobFailed(f"{path.name} is no model.", hint="Models are .safetensors, .onnx and .engine files.")


def predict_all(predictor: Predictor, images: Images, batch_size: int, reporter: Reporter) -> Floats:
    """Return the logits of all images, in their order."""
    parts: list[Floats] = []
    done = 0
    for numbers, pixels in images.batches(batch_size):
        parts.append(predictor.logits(pixels))
        done += len(numbers)
        reporter.progress(0.95 * done / len(images), f"{done} of {len(images)} images")
    return np.concatenate(parts)

"""One way to get logits from weights, ONNX graphs and engines alike; several outputs lie side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..schemas.errors import JobFailed
from .devices import choose_device
from .onnx_tools import GraphSession
from .records import ModelRecord, normalize
from .tensorrt_engine import EngineSession
from .weights import count_parameters

Floats = npt.NDArray[np.float32]

R = TypeVar("R", bound=ModelRecord)


def side_by_side(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the outputs of a network as one tensor: their last axes, one after the other."""
    return outputs if isinstance(outputs, torch.Tensor) else torch.cat(outputs, dim=-1)


class Predictor(Protocol[R]):
    """A model that is ready to use."""

    record: R
    parameter_count: int | None

    def logits(self, pixels_BCHW: torch.Tensor) -> Floats: ...


class TorchPredictor(Generic[R]):
    """Weights, on the GPU where there is one."""

    def __init__(self, model: nn.Module, record: R) -> None:
        self.record = record
        self.parameter_count: int | None = count_parameters(model)
        self._device = choose_device()
        self._model = model.to(self._device).eval()

    @torch.inference_mode()
    def logits(self, pixels_BCHW: torch.Tensor) -> Floats:
        outputs = self._model(normalize(pixels_BCHW.to(self._device), self.record))
        return side_by_side(outputs).float().cpu().numpy()


class SessionPredictor(Generic[R]):
    """A graph in ONNX Runtime or an engine in TensorRT."""

    def __init__(self, session: GraphSession | EngineSession, record: R) -> None:
        self.record = record
        self.parameter_count: int | None = None
        self._session = session

    def logits(self, pixels_BCHW: torch.Tensor) -> Floats:
        return self._session.run(normalize(pixels_BCHW, self.record).numpy())


def open_model(
    path: Path, load: Callable[[Path], tuple[nn.Module, R]], parse: Callable[[object, str], R]
) -> Predictor[R]:
    """Return the model in a .safetensors, .onnx or .engine file.

    Raises:
        JobFailed: no model of this family.
    """
    session: GraphSession | EngineSession
    match path.suffix:
        case ".safetensors":
            return TorchPredictor(*load(path))
        case ".onnx":
            session = GraphSession(path)
        case ".engine":
            session = EngineSession(path)
        case _:
            raise JobFailed(f"{path.name} is no model.", hint="Models are .safetensors, .onnx and .engine files.")
    return SessionPredictor(session, parse(session.record(), path.name))

"""TensorRT engines from graphs that hold their precision themselves; TensorRT 10.x and 11.x."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ..schemas.errors import JobFailed, MissingFeature
from .checkpoints import write_atomically

_HINT = "Install prefect-trainyard[tensorrt] on a worker with an NVIDIA GPU, or set `backend` to auto."


def why_unavailable() -> str | None:
    """Return what is missing for TensorRT on this machine, or None."""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU here"
    try:
        _import()
    # why: without its libraries the package raises a plain ImportError about a shared object.
    except ImportError:
        return "the package tensorrt is not installed"
    return None


def sidecar(engine: Path) -> Path:
    """Return the file beside an engine that holds its record: a plan has no room for one."""
    return engine.with_name(f"{engine.name}.json")


def build_engine(
    graph: onnx.ModelProto,
    path: Path,
    *,
    batch: tuple[int, int, int],
    workspace_bytes: int,
    record: Mapping[str, Any],
) -> None:
    """Build the engine of `graph` for batches of (smallest, usual, largest) and write it with its record.

    Raises:
        MissingFeature: no TensorRT or no GPU.
        JobFailed: TensorRT cannot build it.
    """
    trt = _require()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # why: 11.x knows only strongly typed networks, and 10.x must be asked for one.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        problems = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise JobFailed(f"TensorRT does not understand the graph: {problems}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    entry = network.get_input(0)
    shape = tuple(entry.shape)
    if shape[0] == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(entry.name, *((size, *shape[1:]) for size in batch))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise JobFailed(
            "TensorRT could not build the engine.",
            hint="The log tells why; more workspace_size may help.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(plan))
    write_atomically(sidecar(path), lambda file: file.write(json.dumps(dict(record)).encode()))


class EngineSession:
    """A TensorRT engine with one input and one output."""

    def __init__(self, path: Path) -> None:
        trt = _require()
        # why: runtime and logger must live as long as the engine.
        self._runtime = trt.Runtime(_logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise JobFailed(
                f"TensorRT cannot load {path.name}.",
                hint="An engine runs only on the kind of GPU and the TensorRT version that it was built with.",
            )
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        (self._input,) = [n for n in names if self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._outputs = [n for n in names if n != self._input]
        fixed = self._engine.get_tensor_shape(self._input)[0]
        if fixed == -1:
            smallest, _, largest = self._engine.get_tensor_profile_shape(self._input, 0)
            self._smallest, self._largest = int(smallest[0]), int(largest[0])
        else:
            self._smallest = self._largest = int(fixed)
        try:
            self._record = json.loads(sidecar(path).read_bytes())
        except (OSError, json.JSONDecodeError) as error:
            raise JobFailed(
                f"{sidecar(path).name} is not there or is damaged.", hint="It belongs beside the engine."
            ) from error

    def record(self) -> Any:
        return self._record

    def run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the outputs, side by side, in as many batches as the engine's largest asks for."""
        parts = [self._run(inputs[i : i + self._largest]) for i in range(0, len(inputs), self._largest)]
        return np.concatenate(parts)

    def _run(self, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        count = len(inputs)
        if count < self._smallest:
            inputs = np.concatenate([inputs, np.repeat(inputs[-1:], self._smallest - count, axis=0)])
        on_device = torch.from_numpy(np.ascontiguousarray(inputs)).cuda()
        if not self._context.set_input_shape(self._input, tuple(on_device.shape)):
            raise JobFailed(f"The engine does not take inputs of shape {tuple(on_device.shape)}.")
        outputs = [torch.empty(tuple(self._context.get_tensor_shape(name)), device="cuda") for name in self._outputs]
        self._context.set_tensor_address(self._input, on_device.data_ptr())
        for name, output in zip(self._outputs, outputs, strict=True):
            self._context.set_tensor_address(name, output.data_ptr())
        # why: TensorRT warns about the default stream, which would make it wait more than needed.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise JobFailed("TensorRT could not run the engine.")
        stream.synchronize()
        return (
            torch.cat(outputs, dim=-1)[:count].cpu().numpy() if len(outputs) > 1 else outputs[0][:count].cpu().numpy()
        )


def _import() -> Any:
    import tensorrt

    return tensorrt


def _require() -> Any:
    missing = why_unavailable()
    if missing is not None:
        raise MissingFeature(f"TensorRT cannot be used: {missing}.", hint=_HINT)
    return _import()


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.WARNING)

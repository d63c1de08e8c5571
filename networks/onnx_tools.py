"""ONNX graphs of any family: export, sessions, and graphs of lower precision.

There is one way to a precision for all engines: a Q/DQ or fp16 graph made here, on the CPU.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from ..schemas.errors import JobFailed
from .checkpoints import write_atomically

Floats = npt.NDArray[np.float32]

#: Key of our record in the metadata of a graph.
METADATA_KEY = "trainyard"

INPUT, OUTPUT, BATCH = "images", "logits", "batch"


def export_graph(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    opset: int,
    batch_size: int,
    optimize: bool,
    outputs: Sequence[str] = (OUTPUT,),
) -> onnx.ModelProto:
    """Return the graph of `model` for inputs of `shape`; a `batch_size` of -1 leaves the batch open."""
    # why: with an example of one image, the exporter takes the batch for a constant.
    example = torch.zeros(2 if batch_size == -1 else batch_size, *shape)
    dynamic = ({0: torch.export.Dim(BATCH, min=1, max=4096)},) if batch_size == -1 else None
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(outputs),
            opset_version=opset,
            dynamic_shapes=dynamic,
            external_data=False,
            optimize=optimize,
            verbose=False,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(graph)
    return graph


def save_graph(path: Path, graph: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Write `graph` with `metadata` in its metadata_props."""
    onnx.helper.set_model_props(graph, {**read_metadata(graph), **metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(graph.SerializeToString()))


def load_graph(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:
        raise JobFailed(f"{path.name} is not an ONNX graph that can be read.") from error


def read_metadata(graph: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in graph.metadata_props}


class GraphSession:
    """A graph in ONNX Runtime, with one input."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        available = onnxruntime.get_available_providers()
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:
            raise JobFailed(f"ONNX Runtime cannot load {path.name}: {' '.join(str(error).split())[:300]}") from error
        entry = self._session.get_inputs()[0]
        self._input = entry.name
        self.batch_size: int | None = entry.shape[0] if isinstance(entry.shape[0], int) else None
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def record(self) -> Any:
        """Return our record in the metadata, or None."""
        raw = self.metadata.get(METADATA_KEY)
        try:
            return None if raw is None else json.loads(raw)
        except json.JSONDecodeError:
            return None

    def run(self, inputs: Floats) -> Floats:
        """Return the outputs, side by side; a graph with a fixed batch gets as many whole batches as it takes."""
        size = self.batch_size
        if size is None:
            return self._run(inputs)
        outputs = []
        for start in range(0, len(inputs), size):
            chunk = inputs[start : start + size]
            filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
            outputs.append(self._run(filled)[: len(chunk)])
        return np.concatenate(outputs)

    def _run(self, inputs: Floats) -> Floats:
        outputs = self._session.run(None, {self._input: inputs})
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, axis=-1)


def quantize(
    graph: onnx.ModelProto,
    batches: Iterable[Floats],
    method: Literal["minmax", "entropy"],
    operations: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """Return an int8 graph with Q/DQ nodes around `operations`, or around all that can be, calibrated on `batches`.

    Symmetric, weights per channel, biases left alone: as TensorRT asks for it.
    """
    name = graph.graph.input[0].name
    with tempfile.TemporaryDirectory(prefix="trainyard-int8-") as folder, _quiet():
        source, prepared, result = (Path(folder) / f"{part}.onnx" for part in ("source", "prepared", "result"))
        onnx.save(graph, source)
        # why: symbolic shape inference gives up on some detectors, and nothing here needs it.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            _Reader(name, batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operations,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax if method == "minmax" else CalibrationMethod.Entropy,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )
        quantized = onnx.load(result)
    onnx.helper.set_model_props(quantized, read_metadata(graph))
    return quantized


class _Reader(CalibrationDataReader):
    def __init__(self, name: str, batches: Iterable[Floats]) -> None:
        self._name = name
        self._batches = iter(batches)

    def get_next(self) -> dict[str, Floats] | None:
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


def to_half(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph in fp16, with fp32 inputs and outputs."""
    # why: importing the transformers tools takes a while, and only fp16 engines need them.
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        half = convert_float_to_float16(graph, keep_io_types=True)
    _drop_repeated_nodes(half)
    onnx.helper.set_model_props(half, read_metadata(graph))
    return half


def _drop_repeated_nodes(graph: onnx.ModelProto) -> None:
    """Keep one node of several that make the same value.

    The converter casts a constant once for every node that needs it in fp32, always under the same name; the scale of
    several resizes is such a constant.
    """
    made: set[str] = set()
    kept = []
    for node in graph.graph.node:
        if not made.issuperset(node.output):
            kept.append(node)
            made.update(node.output)
    del graph.graph.node[:]
    graph.graph.node.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tips and progress of the tools out of the job's log."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)

"""Engines of exported graphs, for all families of dense networks: TensorRT or ONNX Runtime, fp32, fp16 or int8."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ..schemas.errors import JobFailed, MissingFeature
from ..schemas.reporting import Reporter
from ..schemas.results import Artifact, ArtifactKind, Output
from .calibration import open_images, read_pixels
from .deployment_specs import EngineSpec, FlatEngineSpec
from .exporting import batch_size_for
from .images import Images
from .onnx_tools import METADATA_KEY, load_graph, quantize, read_metadata, save_graph, to_half
from .predictors import Predictor
from .records import ModelRecord, json_or_none, normalize, random_pixels
from .tensorrt_engine import build_engine as build_tensorrt
from .tensorrt_engine import sidecar, why_unavailable

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    backend: Literal["auto", "tensorrt", "onnxruntime"]
    precision: Literal["fp32", "fp16", "int8"]
    batch: tuple[int, int, int]
    """Smallest, usual and largest batch."""
    workspace_mb: int
    calibration_images: int
    calibration_method: Literal["minmax", "entropy"]


def engine_options(asked: EngineSpec | FlatEngineSpec) -> EngineOptions:
    if isinstance(asked, EngineSpec):
        backend, spec = asked.gen_trt_engine.backend, asked.gen_trt_engine.tensorrt
    else:
        backend, spec = asked.backend, asked
    return EngineOptions(
        backend=backend,
        precision=spec.data_type,
        batch=(spec.min_batch_size, spec.opt_batch_size, spec.max_batch_size),
        workspace_mb=spec.workspace_size,
        calibration_images=spec.calibration.images,
        calibration_method=spec.calibration.method,
    )


def build_engine(
    spec: EngineSpec | FlatEngineSpec,
    *,
    model: Path,
    calibration: Path | None,
    out: Path,
    reporter: Reporter,
    parse: Callable[[object, str], ModelRecord],
    open_predictor: Callable[[Path], Predictor[Any]],
    open_images: Callable[[Path, Any], Images] = open_images,
) -> Output:
    """Build an engine of the graph `model` and say how far it agrees with it.

    `calibration` is an index or a tensorfile; `open_images` gives the images of an index for a record.

    Raises:
        JobFailed: no graph of this family, or int8 without calibration data that fits.
        MissingFeature: TensorRT was asked for and is not here.
    """
    if model.suffix != ".onnx":
        raise JobFailed(f"{model.name} is no ONNX graph.", hint="An engine is built after an export job.")
    options = engine_options(spec)
    graph = load_graph(model)
    record = parse(json_or_none(read_metadata(graph).get(METADATA_KEY)), model.name)
    precision = options.precision
    backend, note = _backend(options.backend)
    if note:
        reporter.log(note)
    chosen = None if calibration is None else read_pixels(calibration, record, options.calibration_images, open_images)
    reporter.progress(0.1, f"building an {precision} engine for {backend}")
    match precision:
        case "int8":
            if chosen is None:
                raise JobFailed(
                    "An int8 engine needs calibration data, and this job has none.",
                    hint="Set calibration_dataset of the experiment, run calibration_tensorfile before it, or set "
                    "data_type to fp16 or fp32.",
                )
            inputs = _inputs(chosen, graph, record)
            graph = quantize(graph, inputs, options.calibration_method, record.INT8_OPERATIONS)
        case "fp16":
            graph = to_half(graph)
        case "fp32":
            pass

    if backend == "onnxruntime":
        path = out / "engine" / f"model.{precision}.onnxruntime.onnx"
        save_graph(path, graph, {"engine": f"onnxruntime {precision}"})
        files = [path]
    else:
        path = out / "engine" / f"model.{precision}.tensorrt.engine"
        build_tensorrt(
            graph,
            path,
            batch=options.batch,
            workspace_bytes=options.workspace_mb * 2**20,
            record=record.model_dump(mode="json"),
        )
        files = [path, sidecar(path)]
    reporter.progress(0.9, "comparing the engine with the graph")
    pixels = random_pixels(record, 16) if chosen is None else chosen
    agreement = _agreement(open_predictor(model), open_predictor(path), pixels)
    reporter.saved(files)
    kinds = (ArtifactKind.ENGINE, ArtifactKind.REPORT)
    titles = (f"{precision} engine for {backend}", "Description of the engine")
    return Output(
        artifacts=[
            Artifact.at(file, out, kind, title, record.epoch)
            for file, kind, title in zip(files, kinds, titles, strict=False)
        ],
        kpi={"agreement": agreement, "size_bytes": float(path.stat().st_size)},
        classes=record.classes,
        message=f"{note} Built an {precision} engine for {backend}: it agrees with the fp32 graph on "
        f"{agreement:.1%} of the {record.unit} it was compared on.".strip(),
    )


def _agreement(original: Predictor[Any], built: Predictor[Any], pixels_BCHW: torch.Tensor) -> float:
    same = total = 0
    for chunk in torch.split(pixels_BCHW, batch_size_for(original.record)):
        found = original.record.agreement(original.logits(chunk), built.logits(chunk))
        same, total = same + found[0], total + found[1]
    return same / total if total else 1.0


def _backend(asked: str) -> tuple[str, str]:
    """Return the backend to use and, when the choice needs one, a sentence about it."""
    missing = why_unavailable()
    if missing is None:
        return ("onnxruntime" if asked == "onnxruntime" else "tensorrt"), ""
    if asked == "tensorrt":
        raise MissingFeature(
            f"A TensorRT engine cannot be built: {missing}.",
            hint="Install prefect-trainyard[tensorrt] on a worker with an NVIDIA GPU, or set `backend` to auto.",
        )
    if asked == "auto":
        return "onnxruntime", f"This is an engine for ONNX Runtime instead of TensorRT, because {missing}."
    return "onnxruntime", ""


def _inputs(pixels_BCHW: torch.Tensor, graph: onnx.ModelProto, record: ModelRecord) -> Iterator[Floats]:
    """Yield the inputs for calibration, in batches that the graph takes."""
    fixed = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for chunk in torch.split(pixels_BCHW, fixed or 16):
        if not fixed or len(chunk) == fixed:
            yield normalize(chunk, record).numpy()

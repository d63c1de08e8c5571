"""Make a model smaller or faster: prune it, export it as a graph, build an engine of the graph."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

from ...datasets.index import ImageIndex, open_index
from ...schemas.errors import JobFailed, MissingFeature
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output
from ..onnx_tools import (
    METADATA_KEY,
    GraphSession,
    export_graph,
    load_graph,
    quantize,
    read_metadata,
    save_graph,
    to_half,
)
from ..pruning import Bounds, prune_share, prune_threshold
from ..tensorrt_engine import build_engine as build_tensorrt
from ..tensorrt_engine import sidecar, why_unavailable
from ..weights import count_parameters
from .data import Images
from .heads import OnePerTask, labels_for, output_names, predicted
from .metrics import score
from .model import Record, load_model, normalize, parse_record, save_model
from .predictors import TorchPredictor, open_predictor, predict_all
from .spec import EngineSpec, ExportSpec, Prune, PruneSpec

Floats = npt.NDArray[np.float32]

#: Images per step where the spec has no batch size.
_BATCH_SIZE = 64


def prune(spec: PruneSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)
    before = count_parameters(network)
    options = spec.prune
    reporter.progress(0.1, f"pruning {before:,} parameters")
    bounds = Bounds(_outputs(network, record), options.granularity, options.min_channels)
    example = torch.zeros(1, *record.shape)
    try:
        with warnings.catch_warnings():
            # why: torch-pruning warns of parameters outside of layers, which the comparison below watches over.
            warnings.simplefilter("ignore")
            if options.method == "ratio":
                prune_share(network, example, options.pruning_ratio, bounds)
            else:
                prune_threshold(network, example, options.pruning_threshold, bounds)
        with torch.inference_mode():
            expected = network.eval()(_noise(record, 2))
    # why: backbones that reshape by hard-coded sizes fail inside the pruner or in their forward in many ways.
    except (RuntimeError, ValueError, IndexError, KeyError, AttributeError, TypeError, AssertionError) as error:
        raise _cannot_prune(record) from error
    after = count_parameters(network)
    removed = 1 - after / before
    if options.method == "ratio" and removed < options.pruning_ratio:
        raise JobFailed(
            f"Pruning removed {removed:.1%} of the parameters, and no more can go with these bounds.",
            hint="Lower prune.granularity or prune.min_channels, or ask for a smaller prune.pruning_ratio.",
        )

    path = out / "prune" / "model.safetensors"
    record = record.model_copy(update={"metrics": {}})
    save_model(path, network.state_dict(), record)
    rebuilt, _ = load_model(path)
    with torch.inference_mode():
        if not torch.allclose(rebuilt(_noise(record, 2)), expected, atol=1e-5, rtol=1e-4):
            path.unlink()
            raise _cannot_prune(record)
    reporter.saved([path])
    kpi = {"parameters_before": float(before), "parameters_after": float(after), "removed_share": removed}
    if data is not None:
        kpi |= _scores(rebuilt, record, open_index(data), reporter)
    return Output(
        artifacts=[_artifact(path, out, ArtifactKind.WEIGHTS, "Pruned weights", record.epoch)],
        kpi=kpi,
        classes=record.classes,
        parameter_count=after,
        best_epoch=record.epoch,
        latest_epoch=record.epoch,
        message=_pruned_message(options, before, after),
    )


def export(spec: ExportSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)
    options = spec.export
    path = out / "export" / "model.onnx"
    metadata = {METADATA_KEY: record.model_dump_json(), "labels": json.dumps(record.classes)}
    images = None if data is None else Images(open_index(data), record)
    difference, problem = 0.0, ""
    # why: the exporter's optimizer breaks a few networks that it exports well without.
    for optimize in (True, False):
        reporter.progress(0.1 if optimize else 0.5, "exporting")
        try:
            graph = export_graph(
                OnePerTask(network, record) if record.tasks else network,
                record.shape,
                opset=options.opset_version,
                batch_size=options.batch_size,
                optimize=optimize,
                outputs=output_names(record),
            )
        except Exception as error:  # noqa: BLE001 why: the exporter raises what any layer of any network does
            problem = " ".join(str(error).split())[:300]
            continue
        save_graph(path, graph, metadata)
        difference, problem = _compare(network, record, GraphSession(path), images, options.tolerance)
        if not problem:
            break
        path.unlink()
    if problem:
        raise JobFailed(
            f"The ONNX graph of {record.backbone} is not the network: {problem}.",
            hint="Export another backbone, or raise export.tolerance if the difference does not matter to you.",
        )
    reporter.saved([path])
    compared = f"on {len(images)} images" if images is not None else "on random images"
    return Output(
        artifacts=[_artifact(path, out, ArtifactKind.ONNX, "ONNX graph", record.epoch)],
        kpi={"max_difference": difference, "compared_images": float(len(images) if images is not None else 0)},
        classes=record.classes,
        parameter_count=count_parameters(network),
        message=f"ONNX Runtime and PyTorch agree {compared}: logits differ by {difference:.1e} at most.",
    )


def build_engine(spec: EngineSpec, *, model: Path, calibration: Path | None, out: Path, reporter: Reporter) -> Output:
    if model.suffix != ".onnx":
        raise JobFailed(f"{model.name} is no ONNX graph.", hint="An engine is built after an export job.")
    graph = load_graph(model)
    record = parse_record(_json(read_metadata(graph).get(METADATA_KEY)), model.name)
    options = spec.gen_trt_engine
    precision = options.tensorrt.data_type
    backend, note = _backend(options.backend)
    if note:
        reporter.log(note)
    chosen = _calibration_images(spec, record, calibration)
    reporter.progress(0.1, f"building an {precision} engine for {backend}")
    match precision:
        case "int8":
            if chosen is None:
                raise JobFailed(
                    "An int8 engine needs calibration data, and this job has none.",
                    hint="Set calibration_dataset of the experiment, or data_type fp16 or fp32.",
                )
            graph = quantize(graph, _inputs(chosen, graph, record), options.tensorrt.calibration.method)
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
        trt = options.tensorrt
        build_tensorrt(
            graph,
            path,
            batch=(trt.min_batch_size, trt.opt_batch_size, trt.max_batch_size),
            workspace_bytes=trt.workspace_size * 2**20,
            record=record.model_dump(),
        )
        files = [path, sidecar(path)]
    reporter.progress(0.9, "comparing the engine with the graph")
    agreement = _agreement(model, path, _random_images(record) if chosen is None else chosen)
    reporter.saved(files)
    kinds = (ArtifactKind.ENGINE, ArtifactKind.REPORT)
    titles = (f"{precision} engine for {backend}", "Description of the engine")
    return Output(
        artifacts=[_artifact(f, out, k, t, record.epoch) for f, k, t in zip(files, kinds, titles, strict=False)],
        kpi={"agreement": agreement, "size_bytes": float(path.stat().st_size)},
        classes=record.classes,
        message=f"{note} Built an {precision} engine for {backend}: "
        f"it gives the label of the fp32 graph for {agreement:.1%} of the images it was compared on.".strip(),
    )


# Pruning


def _outputs(network: nn.Module, record: Record) -> list[nn.Module]:
    """Return the layers that make the logits: the last ones whose outputs are the classes."""
    names = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    named = [network.get_submodule(name) for name in ([names] if isinstance(names, str) else names)]
    found: list[nn.Module] = [
        m for m in named if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == len(record.classes)
    ]
    if not found:
        raise _cannot_prune(record)
    return found


def _pruned_message(options: Prune, before: int, after: int) -> str:
    if after == before:
        return (
            f"All {before:,} parameters are still there: no channel that may go is below {options.pruning_threshold:g} "
            "of the largest in its layer. Raise prune.pruning_threshold to remove some."
        )
    return (
        f"Removed {1 - after / before:.1%} of {before:,} parameters; {after:,} are left. Retrain to win back accuracy."
    )


def _cannot_prune(record: Record) -> JobFailed:
    return JobFailed(
        f"The backbone {record.backbone} cannot be pruned: its layers depend on fixed sizes.",
        hint="Prune a network of plain convolutions, for example a resnet, an efficientnet or a mobilenet.",
    )


def _scores(network: nn.Module, record: Record, index: ImageIndex, reporter: Reporter) -> dict[str, float]:
    labels = labels_for(index, record, "evaluation")
    logits = predict_all(TorchPredictor(network, record), Images(index, record), _BATCH_SIZE, reporter)
    return score(logits, labels, record).kpi


# Comparing


def _noise(record: Record, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, *record.shape), generator=generator, dtype=torch.uint8)
    return normalize(pixels, record)


def _compare(
    network: nn.Module, record: Record, session: GraphSession, images: Images | None, tolerance: float
) -> tuple[float, str]:
    """Return the largest difference of a logit, and what is wrong with the graph or an empty string."""
    # why: several sizes of a batch, because an exporter may have taken the example's for a constant.
    sizes = (1, 2, 5) if session.batch_size is None else (session.batch_size,)
    found, relabelled, count = 0.0, 0, 0
    for is_real, inputs in _comparison_inputs(record, sizes, images):
        with torch.inference_mode():
            expected = network(inputs).numpy()
        try:
            logits = session.run(inputs.numpy())
        except Exception as error:  # noqa: BLE001 why: ONNX Runtime's errors have no common base of their own
            return found, f"it does not run on a batch of {len(inputs)}: {' '.join(str(error).split())[:200]}"
        if logits.shape != expected.shape or not np.isfinite(logits).all():
            return found, f"it gives {logits.shape} for a batch of {len(inputs)}, or values that are no numbers"
        found = max(found, float(np.abs(logits - expected).max()))
        if is_real:
            # why: noise may lie between two classes; only labels of real images must be equal.
            relabelled += int((predicted(logits, record) != predicted(expected, record)).any(axis=1).sum())
            count += len(inputs)
    if relabelled:
        return found, f"{relabelled} of {count} images get another label"
    if found > tolerance:
        return found, f"logits differ by {found:.2e}, more than {tolerance:g}"
    return found, ""


def _comparison_inputs(
    record: Record, sizes: tuple[int, ...], images: Images | None
) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yield batches of noise of all `sizes`, then the images; True marks real ones."""
    for size in sizes:
        yield False, _noise(record, size)
    if images is not None:
        for _, pixels in images.batches(_BATCH_SIZE):
            yield True, normalize(pixels, record)


def _agreement(graph: Path, engine: Path, pixels_BCHW: torch.Tensor) -> float:
    original, built = open_predictor(graph), open_predictor(engine)
    same = total = 0
    for chunk in torch.split(pixels_BCHW, _BATCH_SIZE):
        labels, found = (predicted(model.logits(chunk), original.record) for model in (original, built))
        same += int((labels == found).all(axis=1).sum())
        total += len(chunk)
    return same / total


# Engines


def _backend(asked: str) -> tuple[str, str]:
    """Return the backend to use and, when the choice needs one, a sentence about it."""
    missing = why_unavailable()
    if missing is None:
        return ("onnxruntime" if asked == "onnxruntime" else "tensorrt"), ""
    if asked == "tensorrt":
        raise MissingFeature(
            f"A TensorRT engine cannot be built: {missing}.",
            hint="Install prefect-trainyard[tensorrt] on a worker with an NVIDIA GPU, or set "
            "gen_trt_engine.backend to auto.",
        )
    if asked == "auto":
        return "onnxruntime", f"This is an engine for ONNX Runtime instead of TensorRT, because {missing}."
    return "onnxruntime", ""


def _calibration_images(spec: EngineSpec, record: Record, calibration: Path | None) -> torch.Tensor | None:
    if calibration is None:
        return None
    images = Images(open_index(calibration), record)
    count = min(len(images), spec.gen_trt_engine.tensorrt.calibration.images)
    # why: classes lie side by side in an index, so evenly spread numbers are of all of them.
    return images.pixels(np.linspace(0, len(images) - 1, count).astype(int).tolist())


def _random_images(record: Record) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (16, *record.shape), generator=generator, dtype=torch.uint8)


def _inputs(pixels_BCHW: torch.Tensor, graph: onnx.ModelProto, record: Record) -> Iterator[Floats]:
    """Yield the inputs for calibration, in batches that the graph takes."""
    fixed = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    for chunk in torch.split(pixels_BCHW, fixed or 16):
        if not fixed or len(chunk) == fixed:
            yield normalize(chunk, record).numpy()


def _json(raw: str | None) -> Any:
    try:
        return None if raw is None else json.loads(raw)
    except json.JSONDecodeError:
        return None


def _artifact(path: Path, out: Path, kind: ArtifactKind, title: str, epoch: int | None) -> Artifact:
    return Artifact(path=path.relative_to(out).as_posix(), kind=kind, title=title, epoch=epoch)

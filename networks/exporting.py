"""Export to ONNX for all families of dense networks: the graph is compared with the network before it counts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..schemas.errors import JobFailed
from ..schemas.reporting import Reporter
from ..schemas.results import Artifact, ArtifactKind, Output
from .deployment_specs import Export
from .images import Images
from .onnx_tools import METADATA_KEY, OUTPUT, GraphSession, export_graph, save_graph
from .predictors import side_by_side
from .records import ModelRecord, normalize, random_pixels
from .weights import count_parameters

#: Logits of at most so many numbers are held at once.
_LOGITS = 2**24


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    opset: int
    batch_size: int
    """Of the graph; -1 leaves it open."""
    tolerance: float
    """Largest difference of an output."""
    relabelled_share: float = 0.0
    """Share of what real images are told to hold that may be something else."""


def export_options(spec: Export, *, relabelled_share: float = 0.0) -> ExportOptions:
    return ExportOptions(
        opset=spec.opset_version,
        batch_size=spec.batch_size,
        tolerance=spec.tolerance,
        relabelled_share=relabelled_share,
    )


def batch_size_for(record: ModelRecord) -> int:
    """Return how many images are looked at together: fewer where each has many logits."""
    return max(1, min(64, _LOGITS // math.prod(record.output_shape)))


def export_model(
    network: nn.Module,
    record: ModelRecord,
    options: ExportOptions,
    *,
    images: Images | None,
    out: Path,
    reporter: Reporter,
    graph: nn.Module | None = None,
    outputs: Sequence[str] = (OUTPUT,),
) -> Output:
    """Write the graph of `network` and compare it on noise and on `images`.

    `graph` is the same network with its logits split into several `outputs`, which lie side by side in those of
    `network`. A network that has several outputs itself needs none.

    Raises:
        JobFailed: the network cannot be exported, or the graph is not the network.
    """
    path = out / "export" / "model.onnx"
    metadata = {METADATA_KEY: record.model_dump_json(), "labels": json.dumps(record.classes)}
    difference, problem = 0.0, ""
    # why: the exporter's optimizer breaks a few networks that it exports well without.
    for optimize in (True, False):
        reporter.progress(0.1 if optimize else 0.5, "exporting")
        try:
            exported = export_graph(
                graph or network,
                record.shape,
                opset=options.opset,
                batch_size=options.batch_size,
                optimize=optimize,
                outputs=outputs,
            )
        except Exception as error:  # noqa: BLE001 why: the exporter raises what any layer of any network does
            problem = " ".join(str(error).split())[:300]
            continue
        save_graph(path, exported, metadata)
        difference, problem = _compare(network, record, GraphSession(path), images, options)
        if not problem:
            break
        path.unlink()
    if problem:
        raise JobFailed(
            f"The ONNX graph of {record.backbone} is not the network: {problem}.",
            hint="Export another backbone, or raise the tolerance if the difference does not matter to you.",
        )
    reporter.saved([path])
    compared = f"on {len(images)} images" if images is not None else "on random images"
    return Output(
        artifacts=[Artifact.at(path, out, ArtifactKind.ONNX, "ONNX graph", record.epoch)],
        kpi={"max_difference": difference, "compared_images": float(len(images) if images is not None else 0)},
        classes=record.classes,
        parameter_count=count_parameters(network),
        message=f"ONNX Runtime and PyTorch agree {compared}: outputs differ by {difference:.1e} at most.",
    )


def _compare(
    network: nn.Module, record: ModelRecord, session: GraphSession, images: Images | None, options: ExportOptions
) -> tuple[float, str]:
    """Return the largest difference of an output, and what is wrong with the graph or an empty string."""
    # why: several sizes of a batch, because an exporter may have taken the example's for a constant.
    sizes = (1, 2, 5) if session.batch_size is None else (session.batch_size,)
    found, relabelled, count = 0.0, 0, 0
    for is_real, inputs in _inputs(record, sizes, images):
        with torch.inference_mode():
            expected = side_by_side(network(inputs)).numpy()
        try:
            outputs = session.run(inputs.numpy())
        except Exception as error:  # noqa: BLE001 why: ONNX Runtime's errors have no common base of their own
            return found, f"it does not run on a batch of {len(inputs)}: {' '.join(str(error).split())[:200]}"
        if outputs.shape != expected.shape or not np.isfinite(outputs).all():
            return found, f"it gives {outputs.shape} for a batch of {len(inputs)}, or values that are no numbers"
        found = max(found, record.difference(expected, outputs))
        if is_real:
            # why: noise may lie between two classes; only labels of real images must be equal.
            same, total = record.agreement(expected, outputs)
            relabelled += total - same
            count += total
    if relabelled > options.relabelled_share * count:
        return found, f"{relabelled} of {count} {record.unit} get another label"
    if found > options.tolerance:
        return found, f"outputs differ by {found:.2e}, more than {options.tolerance:g}"
    return found, ""


def _inputs(record: ModelRecord, sizes: tuple[int, ...], images: Images | None) -> Iterator[tuple[bool, torch.Tensor]]:
    """Yield batches of noise of all `sizes`, then the images; True marks real ones."""
    for size in sizes:
        yield False, normalize(random_pixels(record, size), record)
    if images is not None:
        for _, pixels in images.batches(batch_size_for(record)):
            yield True, normalize(pixels, record)

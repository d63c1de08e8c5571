"""Make a segmentation model smaller or faster: prune it, export it as a graph, build an engine of the graph."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ...datasets.index import open_index
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import engines
from ..calibration import write_tensorfile
from ..deployment_specs import EngineSpec, ExportSpec, FlatEngineSpec, Prune, TensorfileSpec
from ..exporting import export_model, export_options
from ..images import Images
from ..predictors import TorchPredictor
from ..shrinking import prune_model
from .data import LabelMaps, masks_of
from .evaluation import open_predictor, predictions
from .metrics import confusion_of, score
from .model import load_model, parse_record, save_model
from .networks import UNet

#: Images per step where the spec has no batch size.
_BATCH_SIZE = 8

#: Share of the pixels of real images that may get another label in the graph: those between two classes.
_RELABELLED_SHARE = 1e-4


def prune(spec: Prune, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)

    def measure(pruned: nn.Module) -> dict[str, float]:
        assert data is not None
        index = open_index(data)
        label_maps = LabelMaps(masks_of(index, "training"), record, cache_mb=0)
        confusion = torch.zeros(len(record.classes), len(record.classes), dtype=torch.int64)
        for batch in predictions(TorchPredictor(pruned, record), index, _BATCH_SIZE, reporter):
            confusion += confusion_of(batch.labels, label_maps.labels(batch.numbers), len(record.classes))
        found = score(confusion.numpy(), 0.0, record.classes).kpi
        return {name: found[name] for name in ("mIoU", "pixel_accuracy")}

    return prune_model(
        spec,
        network=network,
        record=record,
        outputs=[network.head] if isinstance(network, UNet) else [],
        out=out,
        reporter=reporter,
        save=save_model,
        load=load_model,
        measure=None if data is None else measure,
    )


def export(spec: ExportSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)
    images = None if data is None else Images(open_index(data), record.shape)
    options = export_options(spec.export, relabelled_share=_RELABELLED_SHARE)
    return export_model(network, record, options, images=images, out=out, reporter=reporter)


def build_engine(
    spec: EngineSpec | FlatEngineSpec, *, model: Path, calibration: Path | None, out: Path, reporter: Reporter
) -> Output:
    return engines.build_engine(
        spec,
        model=model,
        calibration=calibration,
        out=out,
        reporter=reporter,
        parse=parse_record,
        open_predictor=open_predictor,
    )


def calibration_tensorfile(spec: TensorfileSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    return write_tensorfile(spec, model=model, data=data, out=out, reporter=reporter, parse=parse_record)

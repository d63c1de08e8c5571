"""Make a detector smaller or faster: prune it, export it as a graph, build an engine of the graph."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...datasets.box_index import open_box_index
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import engines
from ..deployment_specs import EngineSpec, ExportSpec, FlatEngineSpec, Prune
from ..exporting import export_model, export_options
from ..images import Images
from ..predictors import TorchPredictor
from ..shrinking import prune_model
from .metrics import kpi_of, truths
from .model import Record, load_model, parse_record, save_model
from .predictions import open_predictor, pictures_of, predict_all
from .selection import Limits

#: Pictures per step where the spec has no batch size.
_BATCH_SIZE = 8

#: Share of the objects in real pictures that may be others in the graph: rounding decides which of two equal boxes
#: stays.
_OTHER_OBJECTS = 0.002


def prune(spec: Prune, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)

    def measure(pruned: nn.Module) -> dict[str, float]:
        assert data is not None
        index = open_box_index(data)
        truth = truths(index, record.classes, masks=record.mask_side > 0)
        predictor = TorchPredictor(pruned, record)
        found = predict_all(predictor, pictures_of(index, record), Limits(), _BATCH_SIZE, reporter)
        return kpi_of(truth, found, record.classes)

    return prune_model(
        spec,
        network=network,
        record=record,
        outputs=network.fixed_layers(),
        out=out,
        reporter=reporter,
        save=save_model,
        load=load_model,
        measure=None if data is None else measure,
        trace=lambda _, inputs: network.traced(inputs),
    )


def export(spec: ExportSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)
    return export_model(
        network,
        record,
        export_options(spec.export, relabelled_share=_OTHER_OBJECTS),
        images=None if data is None else _open_pictures(data, record),
        out=out,
        reporter=reporter,
        outputs=record.outputs,
    )


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
        open_images=_open_pictures,
    )


def _open_pictures(data: Path, record: Record) -> Images:
    return pictures_of(open_box_index(data), record)

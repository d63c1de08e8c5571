"""Make a classifier smaller or faster: prune it, export it as a graph, build an engine of the graph."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ...datasets.index import open_index
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import engines
from ..calibration import write_tensorfile
from ..deployment_specs import EngineSpec, ExportSpec, TensorfileSpec
from ..exporting import export_model, export_options
from ..images import Images
from ..predictors import TorchPredictor
from ..shrinking import prune_model
from .heads import OnePerTask, labels_for, output_names
from .metrics import score
from .model import Record, load_model, parse_record, save_model
from .predictors import open_predictor, predict_all
from .spec import PruneSpec

#: Images per step where the spec has no batch size.
_BATCH_SIZE = 64


def prune(spec: PruneSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)

    def measure(pruned: nn.Module) -> dict[str, float]:
        assert data is not None
        index = open_index(data)
        labels = labels_for(index, record, "evaluation")
        predictor = TorchPredictor(pruned, record)
        logits = predict_all(predictor, Images(index, record.shape), _BATCH_SIZE, reporter)
        return score(logits, labels, record).kpi

    return prune_model(
        spec.prune,
        network=network,
        record=record,
        outputs=_outputs(network, record),
        out=out,
        reporter=reporter,
        save=save_model,
        load=load_model,
        measure=None if data is None else measure,
        section="prune.",
    )


def export(spec: ExportSpec, *, model: Path, data: Path | None, out: Path, reporter: Reporter) -> Output:
    network, record = load_model(model)
    images = None if data is None else Images(open_index(data), record.shape)
    return export_model(
        network,
        record,
        export_options(spec.export),
        images=images,
        out=out,
        reporter=reporter,
        graph=OnePerTask(network, record) if record.tasks else None,
        outputs=output_names(record),
    )


def build_engine(spec: EngineSpec, *, model: Path, calibration: Path | None, out: Path, reporter: Reporter) -> Output:
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


def _outputs(network: nn.Module, record: Record) -> list[nn.Module]:
    """Return the layers that make the logits: the last ones whose outputs are the classes."""
    names = getattr(network, "pretrained_cfg", {}).get("classifier") or ()
    named = [network.get_submodule(name) for name in ([names] if isinstance(names, str) else names)]
    return [m for m in named if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.shape[0] == len(record.classes)]

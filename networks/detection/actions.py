"""The actions of every detector, in the shape that tasks call. Importing this takes seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...schemas.reporting import Reporter
from ...schemas.results import Output
from ...schemas.specs import Spec
from ..training import Request, look_at_best
from . import evaluation
from .compression import build_engine, calibration_tensorfile, export, prune
from .plans import look_of, recipe_of, settings_of
from .predictions import open_predictor
from .spec import EvalConfig
from .training import train as run_training


class Detection:
    """One method per action. Folders are local; an `Output` has its paths relative to `out`."""

    def __init__(self, network: str) -> None:
        self._network = network

    def train(
        self,
        spec: Spec,
        *,
        train_data: Path,
        eval_data: Path | None,
        out: Path,
        weights: Path | None,
        reporter: Reporter,
        until_epoch: int | None = None,
    ) -> Output:
        """Train the network of the spec, going on from the newest checkpoint in `out`.

        `weights` are those of a base experiment. With `until_epoch` this is only a part of the training, which a
        later call with the same `out` goes on with.
        """
        request = Request(
            network=self._network,
            spec=spec,
            train_data=train_data,
            eval_data=eval_data,
            out=out,
            weights=weights,
            is_retrain=False,
            until_epoch=until_epoch,
        )
        return _train(request, reporter)

    def retrain(
        self,
        spec: Spec,
        *,
        train_data: Path,
        eval_data: Path | None,
        out: Path,
        weights: Path | None,
        reporter: Reporter,
    ) -> Output:
        """Train the network in `weights`, pruned or not, on; its architecture and classes stand above the spec."""
        request = Request(
            network=self._network,
            spec=spec,
            train_data=train_data,
            eval_data=eval_data,
            out=out,
            weights=weights,
            is_retrain=True,
        )
        return _train(request, reporter)

    def evaluate(self, spec: Spec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Measure a model on pictures with boxes."""
        look = look_of(spec)
        return evaluation.evaluate(
            limits=look.limits,
            batch_size=look.batch_size,
            samples=look.samples,
            model=model,
            data=data,
            out=out,
            reporter=reporter,
        )

    def infer(self, spec: Spec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Write the boxes in pictures."""
        look = look_of(spec)
        return evaluation.infer(
            limits=look.limits,
            batch_size=look.batch_size,
            overlays=look.overlays,
            samples=look.samples,
            model=model,
            data=data,
            out=out,
            reporter=reporter,
        )

    prune = staticmethod(prune)
    export = staticmethod(export)
    calibration_tensorfile = staticmethod(calibration_tensorfile)
    build_engine = staticmethod(build_engine)
    open_predictor = staticmethod(open_predictor)


def _train(request: Request, reporter: Reporter) -> Output:
    trained = run_training(request, reporter)
    evaluate = partial(
        evaluation.evaluate,
        limits=recipe_of(request.spec).limits,
        batch_size=EvalConfig().batch_size,
        samples=EvalConfig().samples,
    )
    return look_at_best(trained, request, settings_of(request.spec), reporter, evaluate)


SSD = Detection("ssd")
DSSD = Detection("dssd")
YOLO_V3 = Detection("yolo_v3")
YOLO_V4 = Detection("yolo_v4")
YOLO_V4_TINY = Detection("yolo_v4_tiny")
DETECTNET_V2 = Detection("detectnet_v2")
EFFICIENTDET = Detection("efficientdet")
EFFICIENTDET_TF2 = Detection("efficientdet_tf2")
DEFORMABLE_DETR = Detection("deformable_detr")
DINO = Detection("dino")
RETINANET = Detection("retinanet")
FASTER_RCNN = Detection("faster_rcnn")
MASK_RCNN = Detection("mask_rcnn")

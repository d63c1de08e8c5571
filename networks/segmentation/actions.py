"""The actions of `unet` and `segformer`, in the shape that tasks call. Importing this takes seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...schemas.reporting import Reporter
from ...schemas.results import Output
from ..training import Request, look_at_best
from . import evaluation, segformer_spec, unet_spec
from .compression import build_engine, calibration_tensorfile, export, prune
from .model import SEGFORMER, UNET
from .plans import settings_of
from .training import train as run_training

TrainSpec = unet_spec.TrainSpec | segformer_spec.TrainSpec
EvaluateSpec = unet_spec.EvaluateSpec | segformer_spec.EvaluateSpec
InferenceSpec = unet_spec.InferenceSpec | segformer_spec.InferenceSpec


class Segmentation:
    """One method per action. Folders are local; an `Output` has its paths relative to `out`."""

    def __init__(self, network: str) -> None:
        self._network = network

    def train(
        self,
        spec: TrainSpec,
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
        spec: TrainSpec,
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

    def evaluate(self, spec: EvaluateSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Measure a model on images with masks, at the size of its input."""
        return evaluation.evaluate(
            batch_size=_batch_size(spec),
            samples=spec.evaluate.samples,
            model=model,
            data=data,
            out=out,
            reporter=reporter,
        )

    def infer(self, spec: InferenceSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Write the masks of images."""
        return evaluation.infer(
            batch_size=_batch_size(spec),
            overlays=spec.inference.overlays,
            samples=spec.inference.samples,
            model=model,
            data=data,
            out=out,
            reporter=reporter,
        )

    prune = staticmethod(prune)
    export = staticmethod(export)
    calibration_tensorfile = staticmethod(calibration_tensorfile)
    build_engine = staticmethod(build_engine)
    open_predictor = staticmethod(evaluation.open_predictor)


def _batch_size(spec: EvaluateSpec | InferenceSpec) -> int:
    if isinstance(spec, unet_spec.EvaluateSpec | unet_spec.InferenceSpec):
        return spec.dataset_config.batch_size
    return spec.dataset.batch_size


def _train(request: Request, reporter: Reporter) -> Output:
    trained = run_training(request, reporter)
    evaluate = partial(
        evaluation.evaluate,
        batch_size=unet_spec.ReadConfig().batch_size,
        samples=unet_spec.EvaluateSpec().evaluate.samples,
    )
    return look_at_best(trained, request, settings_of(request.spec), reporter, evaluate)


UNET_ACTIONS = Segmentation(UNET)
SEGFORMER_ACTIONS = Segmentation(SEGFORMER)

"""The actions of the classifiers, in the shape that tasks call. Importing this takes seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ...schemas.reporting import Reporter
from ...schemas.results import Output
from ...schemas.specs import Spec
from ..deployment_specs import TensorfileSpec
from ..dialects import in_own_words, in_words_of
from ..training import Request, look_at_best
from . import compression, evaluation, predictors
from .spec import EvaluateSpec
from .training import settings_of, spec_of
from .training import train as run_training


class Classification:
    """One method per action. Folders are local; an `Output` has its paths relative to `out`.

    Specs are those of the network: of the family, or dialects of them.
    """

    open_predictor = staticmethod(predictors.open_predictor)

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
        """Train `model` of the spec, going on from the newest checkpoint in `out`.

        `weights` are those of a base experiment: the backbone starts from them, and the classifier
        too when the classes are the same. With `until_epoch` this is only a part of the training, which a
        later call with the same `out` goes on with.
        """
        with in_words_of(spec) as settings:
            request = Request(
                network=self._network,
                spec=settings,
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
        """Train the network in `weights`, pruned or not, on; its architecture overrides that of the spec."""
        with in_words_of(spec) as settings:
            request = Request(
                network=self._network,
                spec=settings,
                train_data=train_data,
                eval_data=eval_data,
                out=out,
                weights=weights,
                is_retrain=True,
            )
            return _train(request, reporter)

    def evaluate(self, spec: Spec, **inputs: Any) -> Output:
        """Measure `model` on the labelled images `data`."""
        with in_words_of(spec) as settings:
            return evaluation.evaluate(settings, **inputs)

    def infer(self, spec: Spec, **inputs: Any) -> Output:
        """Predict the labels of the images `data` by `model`."""
        with in_words_of(spec) as settings:
            return evaluation.infer(settings, **inputs)

    def prune(self, spec: Spec, **inputs: Any) -> Output:
        """Remove channels of `model`; `data` tells what that does to its metrics."""
        with in_words_of(spec) as settings:
            output = compression.prune(settings, **inputs)
        return output.model_copy(update={"message": in_own_words(spec, output.message)})

    def export(self, spec: Spec, **inputs: Any) -> Output:
        """Make an ONNX graph of `model` and compare the two, on `data` too."""
        with in_words_of(spec) as settings:
            return compression.export(settings, **inputs)

    def calibration_tensorfile(self, spec: TensorfileSpec, **inputs: Any) -> Output:
        """Write the images of `data` that an int8 engine of the graph `model` is calibrated with."""
        return compression.calibration_tensorfile(spec, **inputs)

    def build_engine(self, spec: Spec, **inputs: Any) -> Output:
        """Build an engine of the graph `model`."""
        with in_words_of(spec) as settings:
            return compression.build_engine(settings, **inputs)


def _train(request: Request, reporter: Reporter) -> Output:
    trained = run_training(request, reporter)
    settings = settings_of(spec_of(request))
    return look_at_best(trained, request, settings, reporter, partial(evaluation.evaluate, EvaluateSpec()))


CLASSIFICATION = Classification("classification_pyt")
CLASSIFICATION_TF2 = Classification("classification_tf2")
CLASSIFICATION_TF1 = Classification("classification")
MULTITASK_CLASSIFICATION = Classification("multitask_classification")

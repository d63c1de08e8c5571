"""The actions of `classification_pyt`, in the shape that tasks call. Importing this takes seconds."""

from __future__ import annotations

from pathlib import Path

from ...schemas.reporting import Reporter, SilentReporter
from ...schemas.results import Output
from ..training import Request
from .compression import build_engine, export, prune
from .evaluation import evaluate, infer
from .model import NETWORK
from .predictors import open_predictor
from .spec import EvaluateSpec, TrainSpec
from .training import settings_of, spec_of
from .training import train as run_training


class Classification:
    """One method per action. Folders are local; an `Output` has its paths relative to `out`."""

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
        """Train `model` of the spec, going on from the newest checkpoint in `out`.

        `weights` are those of a base experiment: the backbone starts from them, and the classifier
        too when the classes are the same. With `until_epoch` this is only a part of the training, which a
        later call with the same `out` goes on with.
        """
        request = Request(
            network=NETWORK,
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
        """Train the network in `weights`, pruned or not, on; its architecture overrides that of the spec."""
        return _train(
            Request(
                network=NETWORK,
                spec=spec,
                train_data=train_data,
                eval_data=eval_data,
                out=out,
                weights=weights,
                is_retrain=True,
            ),
            reporter,
        )

    evaluate = staticmethod(evaluate)
    prune = staticmethod(prune)
    export = staticmethod(export)
    build_engine = staticmethod(build_engine)
    infer = staticmethod(infer)
    open_predictor = staticmethod(open_predictor)


def _train(request: Request, reporter: Reporter) -> Output:
    """Train, then look at the best weights as `evaluate` does: metrics per class, confusion, samples.

    Not after a part of the training: a sweep has many of them, and most are never looked at.
    """
    trained = run_training(request, reporter)
    best = trained.model
    is_part = settings_of(spec_of(request)).is_part(request.until_epoch)
    if best is None or request.eval_data is None or is_part or reporter.stop_requested():
        return trained
    reporter.allow_interruption()
    reporter.log("Looking at the best weights.")
    seen = evaluate(
        EvaluateSpec(),
        model=request.out / best.path,
        data=request.eval_data,
        out=request.out,
        reporter=SilentReporter(),
    )
    return trained.model_copy(
        update={
            "artifacts": [*trained.artifacts, *seen.artifacts],
            "kpi": {**seen.kpi, **trained.kpi},
            "categorical": seen.categorical,
            "confusion": seen.confusion,
        }
    )


CLASSIFICATION = Classification()

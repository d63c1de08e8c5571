"""The actions of `mal`, in the shape that tasks call. Importing this takes seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ...schemas.reporting import Reporter
from ...schemas.results import Output
from ..training import Request, look_at_best
from . import evaluation
from .model import NETWORK, Labeller
from .plans import settings_of
from .spec import EvaluateSpec, InferenceSpec, Look, TrainSpec
from .training import train as run_training


class MaskLabelling:
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
        """Train the network of the spec, going on from the newest checkpoint in `out`.

        `weights` are those of a base experiment. With `until_epoch` this is only a part of the training, which a
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
        trained = run_training(request, reporter)
        if spec.train.metric == "loss":
            # why: it is what those choose who do not know the true masks.
            return trained
        return look_at_best(trained, request, settings_of(spec), reporter, partial(evaluation.evaluate, Look()))

    def evaluate(self, spec: EvaluateSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Compare the masks that a model makes of boxes with the true ones."""
        return evaluation.evaluate(spec.evaluate, model=model, data=data, out=out, reporter=reporter)

    def infer(self, spec: InferenceSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
        """Write the masks of the boxes of a data set."""
        return evaluation.infer(spec.inference, model=model, data=data, out=out, reporter=reporter)

    open_predictor = staticmethod(Labeller)


MAL = MaskLabelling()

"""What training is for every family: devices, optimizer, the loop, and the record of what came out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ..schemas.errors import MissingFeature
from ..schemas.reporting import Reporter, SilentReporter
from ..schemas.results import Artifact, ArtifactKind, Output
from ..schemas.specs import Spec
from . import distributed
from .checkpoints import newest_checkpoint
from .devices import algorithms, choose_device, choose_precision, seed_everything
from .loop import Fit, Learner, Plan, fit
from .optimization import Schedule, build_optimizer
from .ranks import ALONE, Ranks
from .records import ModelRecord
from .weights import count_parameters

#: Folder of a training job's files below the folder of the job.
FOLDER = "train"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One training run."""

    network: str
    spec: Spec
    train_data: Path
    eval_data: Path | None
    out: Path
    weights: Path | None
    is_retrain: bool
    until_epoch: int | None = None
    """Last epoch of this part of the training; None: train all of it."""

    def to_json(self) -> dict[str, Any]:
        return {
            "network": self.network,
            "spec": self.spec.model_dump(mode="json"),
            "train_data": str(self.train_data),
            "eval_data": None if self.eval_data is None else str(self.eval_data),
            "out": str(self.out),
            "weights": None if self.weights is None else str(self.weights),
            "is_retrain": self.is_retrain,
            "until_epoch": self.until_epoch,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any], spec: type[Spec]) -> Request:
        """`spec` is that of the family's trainer."""
        return cls(
            network=raw["network"],
            spec=spec.model_validate(raw["spec"]),
            train_data=Path(raw["train_data"]),
            eval_data=None if raw["eval_data"] is None else Path(raw["eval_data"]),
            out=Path(raw["out"]),
            weights=None if raw["weights"] is None else Path(raw["weights"]),
            is_retrain=raw["is_retrain"],
            until_epoch=raw["until_epoch"],
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a spec says about a training, in the words of no network in particular."""

    max_epochs: int
    metric: str
    maximize: bool
    told_metrics: tuple[str, ...]
    """Metrics of the best epoch that the message names."""
    num_gpus: int
    seed: int
    deterministic: bool
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    optimizer: Literal["adamw", "adam", "sgd"]
    lr: float
    weight_decay: float
    momentum: float
    policy: Literal["cosine", "step", "constant", "poly"]
    warmup_epochs: float
    min_lr_ratio: float = 0.0
    warmup_steps: int = 0
    step_epochs: tuple[int, ...] = ()
    gamma: float = 0.1
    drops: tuple[tuple[int, float], ...] = ()
    evaluation_interval: int = 1
    checkpoint_interval: int = 10
    checkpoint_minutes: float = 10.0
    keep_last: int = 1
    pinned: frozenset[int] = frozenset()
    patience: int = 0
    min_delta: float = 0.0
    grad_clip: float = 0.0

    def is_part(self, until_epoch: int | None) -> bool:
        """Tell whether a run until that epoch is only a part of the training."""
        return until_epoch is not None and until_epoch < self.max_epochs


def look_at_best(
    trained: Output, request: Request, settings: Settings, reporter: Reporter, evaluate: Callable[..., Output]
) -> Output:
    """Return what a training gave and what `evaluate` says of its best weights: metrics per class, samples.

    `evaluate` takes model, data, out and reporter. It is not asked after a part of the training: a sweep has many of
    them, and most are never looked at.
    """
    best = trained.model
    is_part = settings.is_part(request.until_epoch)
    if best is None or request.eval_data is None or is_part or reporter.stop_requested():
        return trained
    reporter.allow_interruption()
    reporter.log("Looking at the best weights.")
    seen = evaluate(model=request.out / best.path, data=request.eval_data, out=request.out, reporter=SilentReporter())
    return trained.model_copy(
        update={
            "artifacts": [*trained.artifacts, *seen.artifacts],
            "kpi": {**seen.kpi, **trained.kpi},
            "categorical": seen.categorical,
            "confusion": seen.confusion,
        }
    )


class FamilyLearner(Learner[Any], Protocol):
    """What the loop needs of a family, with the record of its model."""

    @property
    def record(self) -> ModelRecord: ...

    @property
    def image_count(self) -> int: ...


MakeLearner = Callable[[Request, Settings, torch.device, Ranks, Reporter], FamilyLearner]


def train(request: Request, settings: Settings, reporter: Reporter, make: MakeLearner, run_rank: str) -> Output:
    """Train on one device or several, resuming what is in `request.out`.

    `run_rank` is the `module:function` of the family that calls `run` in each of several processes.
    """
    count = settings.num_gpus
    if count == 1:
        return run(request, settings, reporter, ALONE, make)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < count:
        raise MissingFeature(
            f"num_gpus is {count}, but this job was given {gpus}.",
            hint="Lower it, or start the worker on a machine with more GPUs.",
        )
    if gpus == 0:
        reporter.log(f"There is no GPU here: {count} processes share the CPUs.")
    return Output.model_validate(distributed.launch(run_rank, request.to_json(), count, reporter))


def run(request: Request, settings: Settings, reporter: Reporter, ranks: Ranks, make: MakeLearner) -> Output:
    """Train as one of `ranks`."""
    folder = request.out / FOLDER
    with algorithms(settings.deterministic):
        seed_everything(settings.seed)
        precision = choose_precision(settings.precision, choose_device(ranks.rank))
        learner = make(request, settings, precision.device, ranks, reporter)
        # why: equal weights on every rank, but not the same dropout.
        seed_everything(settings.seed + ranks.rank)
        record = learner.record
        reporter.log(
            f"{record.backbone}, {count_parameters(learner.model):,} parameters, "
            f"{record.width} x {record.height} pixels, {len(record.classes)} classes, "
            f"{learner.image_count} images, {precision} on {precision.device.type}"
            + (f" x {ranks.world}." if ranks.world > 1 else ".")
        )
        optimizer = build_optimizer(
            learner.model,
            settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
        schedule = Schedule(
            policy=settings.policy,
            peak=settings.lr,
            steps_per_epoch=learner.steps_per_epoch,
            max_epochs=settings.max_epochs,
            warmup_epochs=settings.warmup_epochs,
            min_ratio=settings.min_lr_ratio,
            warmup_steps=settings.warmup_steps,
            step_epochs=settings.step_epochs,
            gamma=settings.gamma,
            drops=settings.drops,
        )
        plan = Plan(
            max_epochs=settings.max_epochs,
            until_epoch=request.until_epoch,
            metric=settings.metric,
            maximize=settings.maximize,
            evaluation_interval=settings.evaluation_interval,
            checkpoint_interval=settings.checkpoint_interval,
            checkpoint_minutes=settings.checkpoint_minutes,
            keep_last=settings.keep_last,
            pinned=settings.pinned,
            patience=settings.patience,
            min_delta=settings.min_delta,
            grad_clip=settings.grad_clip,
        )
        outcome = fit(learner, optimizer, schedule, precision, plan, folder=folder, reporter=reporter, ranks=ranks)
    return _output(request, settings, learner, outcome, folder)


def _output(request: Request, settings: Settings, learner: FamilyLearner, outcome: Fit, folder: Path) -> Output:
    progress = outcome.progress
    artifacts: list[Artifact] = []
    for path in sorted(folder.glob("model_epoch_*.safetensors")):
        epoch = int(path.stem.rpartition("_")[2])
        title = {progress.best_epoch: "Best weights", progress.epoch: "Latest weights"}.get(epoch, "Weights")
        artifacts.append(Artifact.at(path, request.out, ArtifactKind.WEIGHTS, f"{title}, epoch {epoch}", epoch))
    found = newest_checkpoint(folder)
    if found is not None:
        for path in (found[0], found[0].with_suffix(".json")):
            artifacts.append(
                Artifact.at(path, request.out, ArtifactKind.CHECKPOINT, "Checkpoint to resume from", found[1].epoch)
            )
    artifacts.sort(key=lambda artifact: artifact.epoch != progress.best_epoch)
    has_evaluation = "loss" in progress.best_metrics
    return Output(
        artifacts=artifacts,
        kpi=progress.best_metrics,
        classes=learner.record.classes,
        parameter_count=count_parameters(learner.model),
        best_epoch=progress.best_epoch,
        latest_epoch=progress.epoch or None,
        key_metric=settings.metric if has_evaluation else "train_loss",
        message=_message(settings, outcome),
    )


def _message(settings: Settings, outcome: Fit) -> str:
    progress = outcome.progress
    asked = settings.max_epochs
    if outcome.stopped:
        return f"Stopped in epoch {min(progress.epoch + 1, asked)} of {asked}; it can be resumed from there."
    told = {*settings.told_metrics, settings.metric}
    best = ", ".join(f"{k} {v:.4f}" for k, v in progress.best_metrics.items() if k in told)
    done = f"{progress.epoch} epochs" if outcome.is_complete else f"{progress.epoch} of {asked} epochs"
    early = f" (of {asked}: no improvement any more)" if outcome.ended_early else ""
    return f"Trained {done}{early}; best was epoch {progress.best_epoch}" + (f" with {best}." if best else ".")

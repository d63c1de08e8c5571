"""Train and retrain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...datasets.index import ImageIndex, open_index
from ...schemas.errors import DatasetError, JobFailed, MissingFeature
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output
from .. import distributed
from ..checkpoints import newest_checkpoint
from ..devices import Precision, algorithms, choose_device, choose_precision, seed_everything
from ..loop import Fit, Plan, fit
from ..optimization import Schedule, build_optimizer
from ..ranks import ALONE, Ranks
from ..weights import count_parameters
from .backbones import timm_name
from .data import Batch, Images, TrainingBatches, class_weights, input_size
from .heads import flat_classes, labels_for, require_tasks
from .model import MULTITASK, Record, build, load_model, normalize, save_model, start_from
from .objectives import ClassObjective, Objective, TaskObjective
from .spec import TrainSpec

#: Folder of a training job's files below the folder of the job.
FOLDER = "train"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One training run."""

    network: str
    spec: TrainSpec
    train_data: Path
    eval_data: Path | None
    out: Path
    weights: Path | None
    is_retrain: bool
    until_epoch: int | None = None
    """Last epoch of this part of the training; None: train all of it."""

    @property
    def max_epochs(self) -> int:
        return self.spec.train.train_config.runner.max_epochs

    @property
    def is_part(self) -> bool:
        return self.until_epoch is not None and self.until_epoch < self.max_epochs

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
    def from_json(cls, raw: dict[str, Any]) -> Request:
        return cls(
            network=raw["network"],
            spec=TrainSpec.model_validate(raw["spec"]),
            train_data=Path(raw["train_data"]),
            eval_data=None if raw["eval_data"] is None else Path(raw["eval_data"]),
            out=Path(raw["out"]),
            weights=None if raw["weights"] is None else Path(raw["weights"]),
            is_retrain=raw["is_retrain"],
            until_epoch=raw["until_epoch"],
        )


def train(request: Request, reporter: Reporter) -> Output:
    """Train on one device or several, resuming what is in `request.out`."""
    count = request.spec.train.num_gpus
    if count == 1:
        return run(request, reporter, ALONE)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if 0 < gpus < count:
        raise MissingFeature(
            f"train.num_gpus is {count}, but this job was given {gpus}.",
            hint="Lower it, or start the worker on a machine with more GPUs.",
        )
    if gpus == 0:
        reporter.log(f"There is no GPU here: {count} processes share the CPUs.")
    return Output.model_validate(distributed.launch(f"{__name__}:run_rank", request.to_json(), count, reporter))


def run_rank(arguments: dict[str, Any], reporter: Reporter, ranks: Ranks) -> dict[str, Any]:
    """Be one of several processes that train; called by `distributed`."""
    return run(Request.from_json(arguments), reporter, ranks).model_dump(mode="json")


def run(request: Request, reporter: Reporter, ranks: Ranks) -> Output:
    config = request.spec.train
    folder = request.out / FOLDER
    with algorithms(config.exp_config.deterministic):
        seed_everything(config.exp_config.manual_seed)
        precision = choose_precision(config.train_config.precision, choose_device(ranks.rank))
        learner = _Learner(request, precision.device, ranks, reporter)
        # why: equal weights on every rank, but not the same dropout.
        seed_everything(config.exp_config.manual_seed + ranks.rank)
        reporter.log(
            f"{learner.record.backbone}, {count_parameters(learner.model):,} parameters, "
            f"{learner.record.width} x {learner.record.height} pixels, {len(learner.record.classes)} classes, "
            f"{len(learner.images)} images, {precision} on {precision.device.type}"
            + (f" x {ranks.world}." if ranks.world > 1 else ".")
        )
        outcome = _fit(request, learner, precision, folder, reporter, ranks)
    return _output(request, learner, outcome, folder)


def _fit(
    request: Request, learner: _Learner, precision: Precision, folder: Path, reporter: Reporter, ranks: Ranks
) -> Fit:
    config = request.spec.train.train_config
    optimizer = build_optimizer(
        learner.model,
        config.optimizer.type,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        momentum=config.optimizer.momentum,
    )
    schedule = Schedule(
        policy=config.lr_config.policy,
        peak=config.optimizer.lr,
        steps_per_epoch=learner.steps_per_epoch,
        max_epochs=request.max_epochs,
        warmup_epochs=config.lr_config.warmup_epochs,
        min_ratio=config.lr_config.min_lr_ratio,
        step_epochs=tuple(config.lr_config.step_epochs),
        gamma=config.lr_config.gamma,
    )
    plan = Plan(
        max_epochs=request.max_epochs,
        until_epoch=request.until_epoch,
        metric=config.evaluation.metric,
        maximize=config.evaluation.metric != "loss",
        evaluation_interval=config.evaluation.interval,
        checkpoint_interval=config.checkpoint_config.interval,
        checkpoint_minutes=config.checkpoint_config.minutes,
        keep_last=config.checkpoint_config.keep_last,
        pinned=frozenset(config.checkpoint_config.pinned),
        patience=config.early_stopping.patience,
        min_delta=config.early_stopping.min_delta,
        grad_clip=config.grad_clip,
    )
    return fit(learner, optimizer, schedule, precision, plan, folder=folder, reporter=reporter, ranks=ranks)


class _Learner:
    """The classifier as the training loop sees it."""

    def __init__(self, request: Request, device: torch.device, ranks: Ranks, reporter: Reporter) -> None:
        spec = request.spec
        index = open_index(request.train_data)
        _check_classes(request.network, index)
        self.digest = index.digest
        model, self.record = _start(request, index, reporter)
        self.device = device
        self.model = model.to(device)
        if device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.images = Images(index, self.record, spec.dataset.cache_mb)
        labels = labels_for(index, self.record, "training")
        smoothing = spec.train.train_config.label_smoothing
        self._objective: Objective
        if self.record.tasks:
            self._objective = TaskObjective(self.record, smoothing)
        else:
            weights = class_weights(spec.dataset, labels, self.record.classes)
            weights = None if weights is None else weights.to(device)
            self._objective = ClassObjective(self.record, weights, smoothing)
        self._batches = TrainingBatches(
            self.images, labels, spec.dataset, self.record, spec.train.exp_config.manual_seed, ranks
        )
        self._evaluation: tuple[Images, torch.Tensor] | None = None
        if request.eval_data is not None:
            evaluation = open_index(request.eval_data)
            targets = torch.from_numpy(labels_for(evaluation, self.record, "evaluation"))
            self._evaluation = Images(evaluation, self.record, spec.dataset.cache_mb), targets
            _check_metric(spec.train.train_config.evaluation.metric, len(self.record.classes))
        self._evaluation_batch = spec.dataset.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps

    def fingerprint(self) -> dict[str, Any]:
        return {
            "training data": self.digest,
            "backbone": self.record.backbone,
            "input size": list(self.record.shape),
            "classes": self.record.classes,
        }

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return self._batches.epoch(epoch, start, pin_memory=self.device.type == "cuda")

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        logits_BC = model(self._input(batch.pixels))
        return self._objective.loss(logits_BC, batch.targets.to(self.device, non_blocking=True))

    @torch.inference_mode()
    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        if self._evaluation is None:
            return {}
        images, targets = self._evaluation
        sums: torch.Tensor | None = None
        self.model.eval()
        mine = range(ranks.rank, len(images), ranks.world)
        for numbers, pixels in images.batches(self._evaluation_batch, mine):
            logits_BC = self.model(self._input(pixels)).float()
            found = self._objective.sums(logits_BC, targets[numbers].to(self.device))
            sums = found if sums is None else sums + found
        if sums is None:
            # why: of few images a rank may have none, and all ranks add up sums of one shape.
            nothing = torch.empty(0, len(self.record.classes), device=self.device)
            sums = self._objective.sums(nothing, targets[:0].to(self.device))
        return self._objective.metrics(ranks.sum(sums).tolist())

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        save_model(path, state, self.record.model_copy(update={"epoch": epoch, "metrics": metrics}))

    def _input(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = normalize(pixels_BCHW.to(self.device, non_blocking=True), self.record)
        return inputs.contiguous(memory_format=torch.channels_last) if self.device.type == "cuda" else inputs


def _check_classes(network: str, index: ImageIndex) -> None:
    """Raise `DatasetError` when there is nothing to tell apart."""
    if network != MULTITASK:
        if index.tasks:
            raise DatasetError(
                f"The training data has labels of tasks ({', '.join(index.tasks)}) and not of classes.",
                hint="Train multitask_classification on it, or give the images folders, one per class.",
            )
        if len(index.classes) < 2:
            found = f"only {index.classes[0]!r}" if index.classes else "none"
            raise DatasetError(f"A classifier needs at least two classes, and the training data has {found}.")
        return
    require_tasks(index, "training")
    for task, classes in index.tasks.items():
        if len(classes) < 2:
            raise DatasetError(
                f"The task {task} needs at least two classes, and the training data has only {classes[0]!r}.",
                hint="Leave the column out, or add images of other classes.",
            )


def _check_metric(metric: str, classes: int) -> None:
    if metric == "accuracy_top-5" and classes <= 5:
        raise JobFailed(
            f"train.train_config.evaluation.metric is accuracy_top-5, and there are only {classes} classes: the right "
            "one would always be among the best five.",
            hint="Set it to accuracy_top-1 or loss.",
        )


def _start(request: Request, index: ImageIndex, reporter: Reporter) -> tuple[nn.Module, Record]:
    """Return the network before its first step: from the parent job, from base weights, or random."""
    spec = request.spec
    if request.is_retrain:
        if request.weights is None:
            raise JobFailed("A retrain job starts from the weights of its parent, and there are none.")
        model, record = load_model(request.weights)
        found = flat_classes(index.tasks) or index.classes
        if set(found) != set(record.classes):
            missing = sorted(set(record.classes) ^ set(found))
            raise DatasetError(
                f"The training data and the parent's model do not have the same classes: {', '.join(missing[:10])} "
                "in one of them only.",
                hint="Retrain on data with the classes of the parent, or start a new train job.",
            )
        return model, record.model_copy(update={"network": request.network, "epoch": None, "metrics": {}})

    model_spec = spec.model
    width, height = input_size(index)
    channels = model_spec.input_channels
    record = Record(
        network=request.network,
        backbone=timm_name(model_spec.backbone.type),
        classes=flat_classes(index.tasks) or index.classes,
        tasks=index.tasks,
        channels=channels,
        width=model_spec.input_width or width,
        height=model_spec.input_height or height,
        mean=_per_channel(spec.dataset.mean, channels),
        std=_per_channel(spec.dataset.std, channels),
        drop_rate=model_spec.backbone.drop_rate,
        drop_path_rate=model_spec.backbone.drop_path_rate,
    )
    model = build(record)
    # why: a resumed training gets all its weights from the checkpoint.
    if request.weights is not None and newest_checkpoint(request.out / FOLDER) is None:
        reporter.log(start_from(model, request.weights, record))
    return model, record


def _per_channel(values: list[float], channels: int) -> list[float]:
    if len(values) == channels:
        return values
    # why: grey images of a spec that was made for colour get the average of its numbers.
    return [float(np.mean(values))] * channels


def _output(request: Request, learner: _Learner, outcome: Fit, folder: Path) -> Output:
    progress = outcome.progress
    artifacts: list[Artifact] = []
    for path in sorted(folder.glob("model_epoch_*.safetensors")):
        epoch = int(path.stem.rpartition("_")[2])
        title = {progress.best_epoch: "Best weights", progress.epoch: "Latest weights"}.get(epoch, "Weights")
        artifacts.append(_artifact(path, request.out, ArtifactKind.WEIGHTS, epoch, f"{title}, epoch {epoch}"))
    found = newest_checkpoint(folder)
    if found is not None:
        for path in (found[0], found[0].with_suffix(".json")):
            artifacts.append(
                _artifact(path, request.out, ArtifactKind.CHECKPOINT, found[1].epoch, "Checkpoint to resume from")
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
        key_metric=request.spec.train.train_config.evaluation.metric if has_evaluation else "train_loss",
        message=_message(request, outcome),
    )


def _artifact(path: Path, out: Path, kind: ArtifactKind, epoch: int, title: str) -> Artifact:
    return Artifact(path=path.relative_to(out).as_posix(), kind=kind, epoch=epoch, title=title)


def _message(request: Request, outcome: Fit) -> str:
    progress = outcome.progress
    asked = request.max_epochs
    if outcome.stopped:
        return f"Stopped in epoch {min(progress.epoch + 1, asked)} of {asked}; it can be resumed from there."
    told = {"accuracy_top-1", "loss", request.spec.train.train_config.evaluation.metric}
    best = ", ".join(f"{k} {v:.4f}" for k, v in progress.best_metrics.items() if k in told)
    done = f"{progress.epoch} epochs" if outcome.is_complete else f"{progress.epoch} of {asked} epochs"
    early = f" (of {asked}: no improvement any more)" if outcome.ended_early else ""
    return f"Trained {done}{early}; best was epoch {progress.best_epoch}" + (f" with {best}." if best else ".")

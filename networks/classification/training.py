"""Train and retrain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...datasets.index import ImageIndex, open_index
from ...schemas.errors import DatasetError, JobFailed
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import training
from ..backbones import timm_name
from ..checkpoints import newest_checkpoint
from ..images import Images, input_size
from ..ranks import Ranks
from ..records import normalize, per_channel
from ..training import FOLDER, Request, Settings
from .data import Batch, TrainingBatches, class_weights
from .heads import flat_classes, labels_for, require_tasks
from .model import MULTITASK, Record, build, load_model, save_model, start_from
from .objectives import ClassObjective, Objective, TaskObjective
from .spec import TrainSpec


def train(request: Request, reporter: Reporter) -> Output:
    """Train on one device or several, resuming what is in `request.out`."""
    return training.train(request, settings_of(spec_of(request)), reporter, Classifier, f"{__name__}:run_rank")


def run_rank(arguments: dict[str, Any], reporter: Reporter, ranks: Ranks) -> dict[str, Any]:
    """Be one of several processes that train; called by `distributed`."""
    request = Request.from_json(arguments, TrainSpec)
    return training.run(request, settings_of(spec_of(request)), reporter, ranks, Classifier).model_dump(mode="json")


def spec_of(request: Request) -> TrainSpec:
    assert isinstance(request.spec, TrainSpec)
    return request.spec


def settings_of(spec: TrainSpec) -> Settings:
    """Return the spec in the words of the loop."""
    config = spec.train.train_config
    return Settings(
        max_epochs=config.runner.max_epochs,
        metric=config.evaluation.metric,
        maximize=config.evaluation.metric != "loss",
        told_metrics=("accuracy_top-1", "loss"),
        num_gpus=spec.train.num_gpus,
        seed=spec.train.exp_config.manual_seed,
        deterministic=spec.train.exp_config.deterministic,
        precision=config.precision,
        optimizer=config.optimizer.type,
        lr=config.optimizer.lr,
        weight_decay=config.optimizer.weight_decay,
        momentum=config.optimizer.momentum,
        policy=config.lr_config.policy,
        warmup_epochs=config.lr_config.warmup_epochs,
        min_lr_ratio=config.lr_config.min_lr_ratio,
        step_epochs=tuple(config.lr_config.step_epochs),
        gamma=config.lr_config.gamma,
        evaluation_interval=config.evaluation.interval,
        checkpoint_interval=config.checkpoint_config.interval,
        checkpoint_minutes=config.checkpoint_config.minutes,
        keep_last=config.checkpoint_config.keep_last,
        pinned=frozenset(config.checkpoint_config.pinned),
        patience=config.early_stopping.patience,
        min_delta=config.early_stopping.min_delta,
        grad_clip=config.grad_clip,
    )


class Classifier:
    """The classifier as the training loop sees it."""

    def __init__(
        self, request: Request, settings: Settings, device: torch.device, ranks: Ranks, reporter: Reporter
    ) -> None:
        spec = spec_of(request)
        index = open_index(request.train_data)
        _check_classes(request.network, index)
        self.digest = index.digest
        model, self.record = _start(request, index, reporter)
        self.device = device
        self.model = model.to(device)
        if device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self.images = Images(index, self.record.shape, spec.dataset.cache_mb)
        labels = labels_for(index, self.record, "training")
        smoothing = spec.train.train_config.label_smoothing
        self._objective: Objective
        if self.record.tasks:
            self._objective = TaskObjective(self.record, smoothing)
        else:
            weights = class_weights(spec.dataset, labels, self.record.classes)
            weights = None if weights is None else weights.to(device)
            self._objective = ClassObjective(self.record, weights, smoothing)
        self._batches = TrainingBatches(self.images, labels, spec.dataset, self.record, settings.seed, ranks)
        self._evaluation: tuple[Images, torch.Tensor] | None = None
        if request.eval_data is not None:
            evaluation = open_index(request.eval_data)
            targets = torch.from_numpy(labels_for(evaluation, self.record, "evaluation"))
            self._evaluation = Images(evaluation, self.record.shape, spec.dataset.cache_mb), targets
            _check_metric(spec.train.train_config.evaluation.metric, len(self.record.classes))
        self._evaluation_batch = spec.dataset.batch_size

    @property
    def image_count(self) -> int:
        return len(self.images)

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
    spec = spec_of(request)
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
    width, height = input_size(index, 224)
    channels = model_spec.input_channels
    record = Record(
        network=request.network,
        backbone=timm_name(model_spec.backbone.type),
        classes=flat_classes(index.tasks) or index.classes,
        tasks=index.tasks,
        channels=channels,
        width=model_spec.input_width or width,
        height=model_spec.input_height or height,
        mean=per_channel(spec.dataset.mean, channels),
        std=per_channel(spec.dataset.std, channels),
        drop_rate=model_spec.backbone.drop_rate,
        drop_path_rate=model_spec.backbone.drop_path_rate,
    )
    model = build(record)
    # why: a resumed training gets all its weights from the checkpoint.
    if request.weights is not None and newest_checkpoint(request.out / FOLDER) is None:
        reporter.log(start_from(model, request.weights, record))
    return model, record

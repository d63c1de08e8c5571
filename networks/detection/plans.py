"""The specs of all detectors in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schemas.specs import Spec
from ..reading_spec import Reading
from ..training import Settings
from . import spec as v4
from .augmentation import Augmentation
from .geometry import Resizing
from .selection import Limits


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a spec of training says about the network and its data."""

    network: str
    backbone: str
    options: dict[str, Any]
    """Plain JSON: what else the architecture is made of, kept in the record of the model."""
    width: int
    """Of the input; 0 for both sides takes them from the pictures."""
    height: int
    channels: int
    resizing: Resizing
    reading: Reading
    augmentation: Augmentation
    batch_size: int
    limits: Limits


def recipe_of(spec: Spec) -> Recipe:
    assert isinstance(spec, v4.TrainSpec)
    changes = spec.augmentation_config
    return Recipe(
        network=spec.NETWORK,
        backbone=spec.architecture.backbone,
        options=spec.architecture.model_dump(),
        width=changes.output_width,
        height=changes.output_height,
        channels=changes.output_channel,
        resizing="letterbox" if spec.dataset_config.keep_aspect_ratio else "stretch",
        reading=spec.dataset_config,
        augmentation=Augmentation(
            flip=changes.horizontal_flip,
            zoom=changes.zoom,
            mosaic=changes.mosaic_prob,
            brightness=changes.brightness,
            contrast=changes.contrast,
            saturation=changes.saturation,
            hue=changes.hue,
            min_visible=changes.min_visible,
        ),
        batch_size=spec.training_config.batch_size_per_gpu,
        limits=limits_of(spec.nms_config),
    )


def limits_of(nms: v4.NmsConfig) -> Limits:
    return Limits(score=nms.confidence_threshold, iou=nms.clustering_iou_threshold, boxes=nms.top_k)


def settings_of(spec: Spec) -> Settings:
    """Return what the loop has to know."""
    assert isinstance(spec, v4.TrainSpec)
    config, evaluation = spec.training_config, spec.eval_config
    rates = config.learning_rate.soft_start_annealing_schedule
    return Settings(
        max_epochs=config.num_epochs,
        metric=evaluation.metric,
        maximize=evaluation.metric != "loss",
        told_metrics=("mAP50", "loss"),
        num_gpus=spec.gpus,
        seed=spec.random_seed,
        deterministic=config.deterministic,
        precision=config.precision,
        optimizer=config.optimizer.type,
        lr=rates.max_learning_rate,
        weight_decay=config.regularizer.weight if config.regularizer.type == "L2" else 0.0,
        momentum=config.optimizer.momentum,
        policy="cosine",
        warmup_epochs=rates.soft_start * config.num_epochs,
        min_lr_ratio=rates.min_learning_rate / rates.max_learning_rate,
        evaluation_interval=evaluation.validation_period_during_training,
        checkpoint_interval=config.checkpoint_interval,
        patience=config.early_stopping.patience,
        min_delta=config.early_stopping.min_delta,
        grad_clip=config.grad_clip,
    )

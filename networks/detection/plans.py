"""The specs of all detectors in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...schemas.specs import Spec
from ..reading_spec import Reading
from ..training import Settings
from . import spec as v4
from . import spec_v5 as v5
from .augmentation import Augmentation
from .efficientdet_spec import EfficientDetTf2TrainSpec
from .geometry import Resizing
from .mask_rcnn_spec import MaskAugmentation, MaskRcnnTrainSpec
from .selection import Limits

_TOLD = ("mAP50", "loss")


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
    most_classes: int | None = None
    """With the background; None for any number."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How pictures are looked at by a trained model."""

    batch_size: int
    samples: int
    limits: Limits
    overlays: bool = False


def recipe_of(spec: Spec) -> Recipe:
    if isinstance(spec, v4.TrainSpec):
        architecture = spec.architecture
        return Recipe(
            network=spec.NETWORK,
            backbone=architecture.backbone,
            options=architecture.model_dump(),
            batch_size=spec.training_config.batch_size_per_gpu,
            limits=limits_of(spec.nms_config),
            **_reading(spec.dataset_config, spec.augmentation_config),
        )
    if isinstance(spec, MaskRcnnTrainSpec):
        return _recipe_of_masks(spec)
    if isinstance(spec, EfficientDetTf2TrainSpec):
        network, batch_size = "efficientdet_tf2", spec.train.batch_size
    else:
        assert isinstance(spec, v5.TrainV5)
        network, batch_size = spec.NETWORK, spec.dataset.batch_size
    return Recipe(
        network=network,
        backbone=spec.model.backbone,
        options=spec.model.model_dump(),
        batch_size=batch_size,
        limits=Limits(),
        most_classes=spec.dataset.num_classes or None,
        **_reading(spec.dataset, spec.dataset.augmentation),
    )


def _recipe_of_masks(spec: MaskRcnnTrainSpec) -> Recipe:
    data = spec.data_config
    height, width = data.image_size or (0, 0)
    return Recipe(
        network="mask_rcnn",
        backbone=spec.maskrcnn_config.backbone,
        options=spec.maskrcnn_config.model_dump(),
        width=width,
        height=height,
        channels=3,
        resizing=_resizing(data),
        reading=data,
        augmentation=_augmentation(spec.augmentation_config) if data.augment_input_data else Augmentation(),
        batch_size=spec.train_batch_size,
        limits=limits_of(spec.nms_config),
        most_classes=data.num_classes or None,
    )


def _resizing(data: v4.DatasetConfig) -> Resizing:
    return "letterbox" if data.keep_aspect_ratio else "stretch"


def _reading(data: v4.DatasetConfig, changes: v4.AugmentationConfig) -> dict[str, Any]:
    return {
        "width": changes.output_width,
        "height": changes.output_height,
        "channels": changes.output_channel,
        "resizing": _resizing(data),
        "reading": data,
        "augmentation": _augmentation(changes),
    }


def _augmentation(changes: v4.AugmentationConfig | MaskAugmentation) -> Augmentation:
    return Augmentation(
        flip=changes.horizontal_flip,
        zoom=changes.zoom,
        mosaic=changes.mosaic_prob,
        brightness=changes.brightness,
        contrast=changes.contrast,
        saturation=changes.saturation,
        hue=changes.hue,
        min_visible=changes.min_visible,
    )


def limits_of(nms: v4.NmsConfig) -> Limits:
    return Limits(score=nms.confidence_threshold, iou=nms.clustering_iou_threshold, boxes=nms.top_k)


def look_of(spec: Spec) -> Look:
    """Return what a spec of evaluate or inference says."""
    if isinstance(spec, v4.EvaluateSpec):
        evaluation = spec.eval_config
        return Look(batch_size=evaluation.batch_size, samples=evaluation.samples, limits=limits_of(spec.nms_config))
    if isinstance(spec, v4.InferenceSpec):
        config = spec.inference_config
        return Look(
            batch_size=config.batch_size,
            samples=config.samples,
            limits=limits_of(spec.nms_config),
            overlays=config.overlays,
        )
    assert isinstance(spec, v5.EvaluateV5 | v5.InferenceV5)
    asked = spec.evaluate if isinstance(spec, v5.EvaluateV5) else spec.inference
    return Look(
        batch_size=spec.dataset.batch_size,
        samples=asked.samples,
        limits=Limits(score=asked.conf_threshold),
        overlays=asked.overlays if isinstance(asked, v5.Inference) else False,
    )


def settings_of(spec: Spec) -> Settings:
    """Return what the loop has to know."""
    if isinstance(spec, v4.TrainSpec):
        return _settings_v4(spec)
    if isinstance(spec, MaskRcnnTrainSpec):
        return _settings_of_masks(spec)
    if isinstance(spec, EfficientDetTf2TrainSpec):
        train, rates, optimizer = spec.train, spec.train.lr_schedule, spec.train.optimizer
        return Settings(
            num_gpus=spec.gpus,
            optimizer=optimizer.name,
            lr=rates.learning_rate,
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            warmup_epochs=rates.warmup_epoch,
            min_lr_ratio=rates.min_lr_ratio,
            **_loop(train),
        )
    assert isinstance(spec, v5.TrainV5)
    optim = spec.train.optim
    return Settings(
        num_gpus=spec.train.num_gpus,
        optimizer=optim.optimizer,
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        momentum=optim.momentum,
        warmup_epochs=optim.warmup_share * spec.train.num_epochs,
        min_lr_ratio=optim.min_lr_ratio,
        **_loop(spec.train),
    )


def _loop(train: v5.Loop) -> dict[str, Any]:
    return {
        "max_epochs": train.num_epochs,
        "metric": train.metric,
        "maximize": train.metric != "loss",
        "told_metrics": _TOLD,
        "seed": train.seed,
        "deterministic": train.deterministic,
        "precision": train.precision,
        "policy": "cosine",
        "evaluation_interval": train.validation_interval,
        "checkpoint_interval": train.checkpoint_interval,
        "patience": train.patience,
        "grad_clip": train.clip_grad_norm,
    }


def _settings_v4(spec: v4.TrainSpec) -> Settings:
    config, evaluation = spec.training_config, spec.eval_config
    rates = config.learning_rate.soft_start_annealing_schedule
    return Settings(
        max_epochs=config.num_epochs,
        metric=evaluation.metric,
        maximize=evaluation.metric != "loss",
        told_metrics=_TOLD,
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


def _settings_of_masks(spec: MaskRcnnTrainSpec) -> Settings:
    steps = map(round, spec.learning_rate_steps)
    drops = tuple(zip(steps, spec.learning_rate_decay_levels, strict=False))
    return Settings(
        max_epochs=spec.num_epochs,
        metric=spec.eval_config.metric,
        maximize=spec.eval_config.metric != "loss",
        told_metrics=("mask_mAP50", *_TOLD),
        num_gpus=spec.gpus,
        seed=spec.seed,
        deterministic=spec.deterministic,
        precision=spec.precision,
        optimizer=spec.optimizer,
        lr=spec.init_learning_rate,
        weight_decay=spec.l2_weight_decay,
        momentum=spec.momentum,
        policy="step" if drops else "cosine",
        warmup_epochs=0.0 if spec.warmup_steps else 0.1 * spec.num_epochs,
        warmup_steps=spec.warmup_steps,
        min_lr_ratio=0.01,
        drops=drops,
        evaluation_interval=spec.eval_config.validation_period_during_training,
        checkpoint_interval=spec.checkpoint_interval,
        patience=spec.early_stopping.patience,
        min_delta=spec.early_stopping.min_delta,
        grad_clip=spec.grad_clip,
    )

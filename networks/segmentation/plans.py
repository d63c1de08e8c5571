"""The specs of both networks in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...datasets.mask_classes import ValueClass
from ...schemas.specs import Spec
from ..reading_spec import Reading
from ..training import Settings
from . import segformer_spec, unet_spec
from .metrics import LossName
from .spec_parts import Augmentation, InputSize

_TOLD = ("mIoU", "loss")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a spec says about the network and its data."""

    network: Literal["unet", "segformer"]
    backbone: str
    decoder_channels: int
    size: InputSize
    reading: Reading
    augmentation: Augmentation
    batch_size: int
    loss: LossName
    listed_classes: list[ValueClass]
    iterations: int | None
    """Steps of an epoch; None for one pass over the data."""


def recipe_of(spec: Spec) -> Recipe:
    if isinstance(spec, unet_spec.TrainSpec):
        data = spec.dataset_config
        return Recipe(
            network="unet",
            backbone=spec.model.arch,
            decoder_channels=spec.model.decoder_channels,
            size=spec.model,
            reading=data,
            augmentation=data.augmentation_config,
            batch_size=spec.training_config.batch_size,
            loss=spec.training_config.loss,
            listed_classes=data.listed_classes,
            iterations=None,
        )
    assert isinstance(spec, segformer_spec.TrainSpec)
    return Recipe(
        network="segformer",
        backbone=spec.model.backbone.type,
        decoder_channels=0,
        size=spec.model,
        reading=spec.dataset,
        augmentation=spec.dataset.augmentation,
        batch_size=spec.dataset.batch_size,
        loss=spec.train.loss,
        listed_classes=spec.dataset.listed_classes,
        iterations=-(-spec.train.max_iters // spec.train.num_rounds),
    )


def settings_of(spec: Spec) -> Settings:
    """Return what the loop has to know."""
    if isinstance(spec, unet_spec.TrainSpec):
        config = spec.training_config
        return Settings(
            max_epochs=config.epochs,
            metric=config.metric,
            maximize=config.metric != "loss",
            told_metrics=_TOLD,
            num_gpus=spec.gpus,
            seed=config.random_seed,
            deterministic=config.deterministic,
            precision=config.precision,
            optimizer=config.optimizer,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            policy=config.lr_policy,
            warmup_epochs=config.warmup_epochs,
            min_lr_ratio=0.01,
            evaluation_interval=config.evaluation_interval,
            checkpoint_interval=config.checkpoint_interval,
            patience=config.patience,
            grad_clip=config.grad_clip,
        )
    assert isinstance(spec, segformer_spec.TrainSpec)
    train = spec.train
    return Settings(
        max_epochs=train.num_rounds,
        metric=train.metric,
        maximize=train.metric != "loss",
        told_metrics=_TOLD,
        num_gpus=train.num_gpus,
        seed=train.seed,
        deterministic=train.deterministic,
        precision=train.precision,
        optimizer=train.optim.type,
        lr=train.optim.lr,
        weight_decay=train.optim.weight_decay,
        momentum=train.optim.momentum,
        policy=train.optim.policy,
        warmup_epochs=train.optim.warmup_share * train.num_rounds,
        min_lr_ratio=0.01 if train.optim.policy == "cosine" else 0.0,
        evaluation_interval=train.validation_interval,
        checkpoint_interval=train.checkpoint_interval,
        patience=train.patience,
        grad_clip=train.grad_clip,
    )

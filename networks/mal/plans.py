"""What a spec says, in the words of the training loop."""

from __future__ import annotations

from ..training import Settings
from .losses import Field
from .model import Maker
from .spec import Look, Train, TrainSpec


def settings_of(spec: TrainSpec) -> Settings:
    """Return what the loop has to know."""
    train = spec.train
    return Settings(
        max_epochs=train.num_epochs,
        metric=train.metric,
        maximize=train.metric != "loss",
        told_metrics=("mIoU", "loss"),
        num_gpus=spec.gpus,
        seed=train.seed,
        deterministic=train.deterministic,
        precision=train.precision,
        optimizer=train.optim_type,
        lr=train.lr,
        weight_decay=train.wd,
        momentum=train.optim_momentum,
        policy="cosine",
        warmup_epochs=train.warmup_epochs,
        min_lr_ratio=train.min_lr_rate,
        evaluation_interval=train.val_interval,
        checkpoint_interval=train.save_every_k_epoch,
        patience=train.patience,
        grad_clip=train.grad_clip,
    )


def field_of(train: Train) -> Field:
    return Field(
        zeta=train.crf_zeta,
        omega=train.crf_omega,
        kernel=train.crf_kernel_size,
        iterations=train.crf_num_iter,
        high=train.crf_value_high_thres,
        low=train.crf_value_low_thres,
    )


def maker_of(look: Look) -> Maker:
    if look.use_mixed_model_test:
        return "both"
    return "teacher" if look.use_teacher_test else "student"

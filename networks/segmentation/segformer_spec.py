"""Specs of `segformer`, one model per action, with the sections that clients of the API documents know."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ...datasets.mask_classes import ValueClass
from ...schemas.specs import Spec, parameter, section
from ..reading_spec import Reading
from .spec_parts import (
    Augmentation,
    Evaluate,
    Inference,
    InputSize,
    MaskClass,
    Metric,
    ReadDataset,
    checked_classes,
)


class Backbone(Spec):
    type: Literal["mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"] = parameter(
        "mit_b0", description="Encoder: a Mix Transformer, from small to large.", popular=True
    )


class Model(InputSize):
    backbone: Backbone = section(Backbone)


class PaletteClass(MaskClass):
    seg_class: str = parameter(description="Name of the class.", min_length=1, max_length=200)


class TrainDataset(Reading):
    batch_size: int = parameter(
        4,
        description="Images per step and GPU.",
        ge=1,
        le=1024,
        popular=True,
        automl=True,
        search=(2, 64),
        log=True,
        math_cond="^ 2",
    )
    palette: list[PaletteClass] = parameter(
        [],
        description="The classes of the masks. Empty: those of classes.txt in the data set, else every value that "
        "occurs in its masks is a class.",
        max_length=1000,
    )
    augmentation: Augmentation = section(Augmentation)

    @field_validator("palette")
    @classmethod
    def _checked(cls, value: list[PaletteClass]) -> list[PaletteClass]:
        checked_classes([entry.as_value(entry.seg_class) for entry in value])
        return value

    @property
    def listed_classes(self) -> list[ValueClass]:
        return [entry.as_value(entry.seg_class) for entry in sorted(self.palette, key=lambda entry: entry.label_id)]


class Optim(Spec):
    type: Literal["adamw", "adam", "sgd"] = parameter("adamw", description="Optimizer.", automl=True)
    lr: float = parameter(
        0.0006,
        description="Peak learning rate. With pretrained weights a tenth of it is usual.",
        gt=0,
        le=10,
        popular=True,
        automl_default=True,
        search=(1e-5, 0.01),
        log=True,
    )
    weight_decay: float = parameter(
        0.01,
        description="Weight decay; not applied to biases and norms.",
        ge=0,
        le=1,
        automl_default=True,
        search=(1e-6, 0.3),
        log=True,
    )
    momentum: float = parameter(0.9, description="Momentum, of SGD only.", ge=0, lt=1, automl=True, search=(0.5, 0.99))
    policy: Literal["poly", "cosine", "step", "constant"] = parameter(
        "poly", description="How the learning rate falls after the warm-up.", automl=True
    )
    warmup_share: float = parameter(
        0.05, description="Share of the iterations in which the rate rises to its peak.", ge=0, le=0.5, automl=True
    )


class Train(Spec):
    max_iters: int = parameter(
        1000,
        description="Iterations (steps) of the whole training. They are divided into num_rounds rounds of one length, "
        "rounded up.",
        ge=1,
        le=10_000_000,
        popular=True,
        title="Max iterations",
    )
    num_rounds: int = parameter(
        10,
        description="After each round the model is evaluated and reported, as other networks do after an epoch; "
        "checkpoints, reports and sweeps count in rounds.",
        ge=1,
        le=100000,
        title="Rounds",
    )
    num_gpus: int = parameter(
        1,
        description="GPUs to train on. A machine without GPUs runs as many processes on its CPUs.",
        ge=1,
        le=64,
        popular=True,
    )
    loss: Literal["cross_entropy", "cross_dice_sum", "dice"] = parameter(
        "cross_entropy", description="Loss; cross_dice_sum helps small classes.", popular=True, automl=True
    )
    optim: Optim = section(Optim)
    grad_clip: float = parameter(1.0, description="Largest norm of the gradient; 0 means no clipping.", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = parameter(
        "auto", description="Mixed precision. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on CPU."
    )
    metric: Metric = parameter("mIoU", description="What the best checkpoint is best in, on the evaluation data.")
    validation_interval: int = parameter(
        1, description="Evaluate after every n-th round, and after the last.", ge=1, le=100000
    )
    checkpoint_interval: int = parameter(
        10, description="Keep the weights of every n-th round, besides the best and the latest.", ge=1, le=100000
    )
    patience: int = parameter(
        0, description="Stop after so many evaluations without improvement; 0 never stops early.", ge=0, le=100000
    )
    seed: int = parameter(49, description="Seed of weights, order and augmentation.", ge=0, le=4294967295)
    deterministic: bool = parameter(
        False, description="Use only algorithms with bit-for-bit equal results; slower on GPUs."
    )


class TrainSpec(Spec):
    model: Model = section(Model)
    dataset: TrainDataset = section(TrainDataset)
    train: Train = section(Train)


class EvaluateSpec(Spec):
    dataset: ReadDataset = section(ReadDataset)
    evaluate: Evaluate = section(Evaluate)


class InferenceSpec(Spec):
    dataset: ReadDataset = section(ReadDataset)
    inference: Inference = section(Inference)

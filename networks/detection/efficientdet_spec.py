"""The sections of `efficientdet` and `efficientdet_tf2` in the specs of training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from ...schemas.specs import Spec, like, parameter, section
from . import spec
from .spec_v5 import Architecture, Data, Dataset, EvaluateV5, Loop, Optim
from .spec_v5 import Evaluate as BaseEvaluate

Name = Literal[
    "efficientdet-d0",
    "efficientdet-d1",
    "efficientdet-d2",
    "efficientdet-d3",
    "efficientdet-d4",
    "efficientdet-d5",
    "efficientdet-d6",
    "efficientdet-d7",
]


class EfficientDetConfig(spec.Architecture):
    model_name: Name = parameter(
        "efficientdet-d0", description="Size of the feature pyramid and the heads.", popular=True
    )
    arch: str = like(spec.Architecture, "arch", "efficientnet-b0")
    anchor_scale: float = parameter(
        4.0, description="Side of an anchor, in strides of its feature map.", gt=0, le=32, automl=True
    )


class EfficientDetTrainSpec(spec.TrainSpec):
    SECTION = "network"
    NETWORK = "efficientdet"

    network: EfficientDetConfig = section(EfficientDetConfig, name="model_config")


class Model(Architecture):
    name: Name = like(EfficientDetConfig, "model_name")
    backbone: str = like(Architecture, "backbone", "efficientnet-b0")
    anchor_scale: float = like(EfficientDetConfig, "anchor_scale")


class LrSchedule(Spec):
    warmup_epoch: float = parameter(
        2.0, description="Epochs in which the rate rises to its peak.", ge=0, le=1000, automl=True, search=(None, 5.0)
    )
    learning_rate: float = like(Optim, "lr", 0.001)
    min_lr_ratio: float = like(Optim, "min_lr_ratio")


class OptimizerTf2(Spec):
    name: Literal["adamw", "adam", "sgd"] = like(Optim, "optimizer")
    momentum: float = like(Optim, "momentum")
    weight_decay: float = like(Optim, "weight_decay")


class TrainTf2(Loop):
    batch_size: int = like(Dataset, "batch_size", 8)
    num_examples_per_epoch: int = parameter(
        0,
        description="For clients of the API document: an epoch is always one pass over the training data.",
        ge=0,
        le=10**9,
    )
    checkpoint_interval: int = like(Loop, "checkpoint_interval", 5)
    lr_schedule: LrSchedule = section(LrSchedule)
    optimizer: OptimizerTf2 = section(OptimizerTf2)


class EfficientDetTf2TrainSpec(Spec):
    gpus: int = like(spec.TrainSpec, "gpus")
    model: Model = section(Model)
    dataset: Data = section(Data)
    train: TrainTf2 = section(TrainTf2)


class EvaluateTf2(BaseEvaluate):
    num_samples: int = parameter(
        0,
        description="For clients of the API document: all pictures of the evaluation data are looked at.",
        ge=0,
        le=10**9,
    )


class EfficientDetTf2EvaluateSpec(EvaluateV5):
    evaluate: EvaluateTf2 = section(EvaluateTf2)

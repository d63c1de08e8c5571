"""Specs of the detectors of the 5.3 document: the sections that all of them have. Imports no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from ...schemas.specs import Spec, like, parameter, section
from ..backbones import timm_name
from ..deployment_specs import EngineSpec, ExportSpec
from .spec import (
    AugmentationConfig,
    DatasetConfig,
    EvalConfig,
    InferenceConfig,
    Metric,
    NmsConfig,
    Optimizer,
    Regularizer,
    Schedule,
    TrainingConfig,
    TrainingEvalConfig,
    TrainSpec,
)


class Architecture(Spec):
    backbone: str = parameter(
        "resnet_50",
        description="Backbone: resnet_50, efficientnet-b0 and others, or any timm model of convolutions that gives "
        "features of several sizes.",
        popular=True,
        pattern=r"^[A-Za-z0-9_.\-]{1,100}$",
    )

    @field_validator("backbone")
    @classmethod
    def _is_here(cls, value: str) -> str:
        return timm_name(value)


class Classes(Spec):
    num_classes: int = parameter(
        0,
        description="Classes there may be, with the background; 0: those of the training data. What the model is asked "
        "about are always the classes of its training data.",
        ge=0,
        le=100000,
        popular=True,
    )


class Data(DatasetConfig, Classes):
    augmentation: AugmentationConfig = section(AugmentationConfig)


class Dataset(Data):
    batch_size: int = like(TrainingConfig, "batch_size_per_gpu", 4)


class Optim(Spec):
    optimizer: Literal["adamw", "adam", "sgd"] = like(Optimizer, "type")
    momentum: float = like(Optimizer, "momentum")
    lr: float = like(Schedule, "max_learning_rate", 0.0002)
    weight_decay: float = like(Regularizer, "weight", 0.0001)
    warmup_share: float = like(Schedule, "soft_start", 0.05)
    min_lr_ratio: float = parameter(0.01, description="Lowest rate of the cosine, as a share of the peak.", ge=0, le=1)


class Loop(Spec):
    """How a training goes on, in the words of both frameworks of the document."""

    num_epochs: int = like(TrainingConfig, "num_epochs")
    seed: int = like(TrainSpec, "random_seed", 1234)
    clip_grad_norm: float = like(TrainingConfig, "grad_clip", 0.1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = like(TrainingConfig, "precision")
    deterministic: bool = like(TrainingConfig, "deterministic")
    checkpoint_interval: int = like(TrainingConfig, "checkpoint_interval")
    validation_interval: int = like(TrainingEvalConfig, "validation_period_during_training")
    metric: Metric = like(TrainingEvalConfig, "metric")
    patience: int = parameter(
        0, description="Stop after so many evaluations without improvement; 0 never stops early.", ge=0, le=100000
    )


class Train(Loop):
    num_gpus: int = like(TrainSpec, "gpus")
    optim: Optim = section(Optim)


class TrainV5(Spec):
    """Base of the specs of `train` of networks in PyTorch. Each has a section `model` of its own."""

    NETWORK: ClassVar[str]

    model: Architecture = section(Architecture)
    dataset: Dataset = section(Dataset)
    train: Train = section(Train)


class ReadDataset(Classes):
    batch_size: int = like(EvalConfig, "batch_size")


class Evaluate(Spec):
    conf_threshold: float = like(NmsConfig, "confidence_threshold")
    samples: int = like(EvalConfig, "samples")


class EvaluateV5(Spec):
    dataset: ReadDataset = section(ReadDataset)
    evaluate: Evaluate = section(Evaluate)


class Inference(Spec):
    conf_threshold: float = like(NmsConfig, "confidence_threshold", 0.3)
    overlays: bool = like(InferenceConfig, "overlays")
    samples: int = like(InferenceConfig, "samples")


class InferenceV5(Spec):
    dataset: ReadDataset = section(ReadDataset)
    inference: Inference = section(Inference)


class ExportV5(ExportSpec):
    dataset: Classes = section(Classes)


class EngineV5(EngineSpec):
    dataset: Classes = section(Classes)

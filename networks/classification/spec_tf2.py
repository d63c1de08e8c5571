"""Specs of `classification_tf2`, in the words of the v5 document. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator

from ...schemas.specs import Spec, like, parameter, section
from .. import deployment_specs as shared
from ..backbones import timm_name
from ..dialects import DialectSpec
from . import spec as family
from .dialect_sections import (
    ClassWeighting,
    Loop,
    LrConfig,
    MixingAugmentation,
    Preprocess,
    RegConfig,
    preprocess_mode,
    preprocessing,
    under,
)


class Model(Spec):
    backbone: str = parameter(
        "efficientnet-b0",
        description="Architecture, for example efficientnet-b0, resnet_18 or mobilenet_v2, or any timm model.",
        popular=True,
        pattern=family.BACKBONE,
    )
    input_width: int = like(family.Model, "input_width")
    input_height: int = like(family.Model, "input_height")
    input_channels: Literal[1, 3] = like(family.Model, "input_channels")
    dropout: float = like(family.Backbone, "drop_rate")

    @field_validator("backbone")
    @classmethod
    def _is_here(cls, value: str) -> str:
        timm_name(value)
        return value


class Dataset(ClassWeighting):
    preprocess_mode: Preprocess = preprocess_mode()
    augmentation: MixingAugmentation = section(MixingAugmentation)


class OptimConfig(Spec):
    optimizer: Literal["sgd", "adam", "adamw"] = like(family.Optimizer, "type", "sgd")
    momentum: float = like(family.Optimizer, "momentum")


class Train(Loop):
    num_epochs: int = like(family.Runner, "max_epochs", 80, title="Epochs")
    random_seed: int = like(family.ExperimentConfig, "manual_seed", 42)
    optim_config: OptimConfig = section(OptimConfig)
    lr_config: LrConfig = section(LrConfig)
    reg_config: RegConfig = section(RegConfig)
    evaluation: family.Evaluation = section(family.Evaluation)


class TrainSpec(DialectSpec):
    """Spec of `train` and `retrain`; a retrain takes the architecture from its parent, not from `model`."""

    gpus: int = like(family.Train, "num_gpus")
    model: Model = section(Model)
    dataset: Dataset = section(Dataset)
    train: Train = section(Train)

    FAMILY = family.TrainSpec
    NAMES: ClassVar = {
        "gpus": "train.num_gpus",
        "model.backbone": "model.backbone.type",
        "model.input_width": "model.input_width",
        "model.input_height": "model.input_height",
        "model.input_channels": "model.input_channels",
        "model.dropout": "model.backbone.drop_rate",
        **under("dataset", ClassWeighting.NAMES),
        "train.num_epochs": "train.train_config.runner.max_epochs",
        "train.random_seed": "train.exp_config.manual_seed",
        "train.optim_config.optimizer": "train.train_config.optimizer.type",
        "train.optim_config.momentum": "train.train_config.optimizer.momentum",
        "train.reg_config.weight_decay": "train.train_config.optimizer.weight_decay",
        "train.evaluation": "train.train_config.evaluation",
        **under("train.lr_config", LrConfig.NAMES),
        **under("train", Loop.NAMES),
    }

    def converted(self) -> dict[str, Any]:
        decay = self.train.reg_config
        return {
            "dataset.augmentation": self.dataset.augmentation.converted(),
            "train.train_config.lr_config": self.train.lr_config.converted(self.train.num_epochs),
            "train.train_config.optimizer.weight_decay": decay.weight_decay if decay.type == "L2" else 0.0,
            **preprocessing(self.dataset.preprocess_mode),
        }


class Evaluate(Spec):
    batch_size: int = like(family.ReadDataset, "batch_size")
    samples: int = like(family.Evaluate, "samples")


class EvaluateSpec(DialectSpec):
    evaluate: Evaluate = section(Evaluate)

    FAMILY = family.EvaluateSpec
    NAMES: ClassVar = {"evaluate.batch_size": "dataset.batch_size", "evaluate.samples": "evaluate.samples"}


class Inference(Spec):
    batch_size: int = like(family.ReadDataset, "batch_size")
    top_k: int = like(family.Inference, "top_k")
    samples: int = like(family.Inference, "samples")


class InferenceSpec(DialectSpec):
    inference: Inference = section(Inference)

    FAMILY = family.InferenceSpec
    NAMES: ClassVar = {
        "inference.batch_size": "dataset.batch_size",
        "inference.top_k": "inference.top_k",
        "inference.samples": "inference.samples",
    }


class Prune(Spec):
    byom_model_path: str = parameter(
        "", description="Must stay empty: the model is that of the parent job.", max_length=1000
    )
    threshold: float = like(
        shared.Prune,
        "pruning_threshold",
        0.68,
        title="Threshold",
        description="A channel whose norm is below this share of the largest in its layer goes.",
    )
    granularity: int = like(shared.Prune, "granularity")
    min_num_filters: int = like(shared.Prune, "min_channels", 16)
    method: Literal["ratio", "threshold"] = like(shared.Prune, "method", "threshold")
    pruning_ratio: float = like(shared.Prune, "pruning_ratio")

    @field_validator("byom_model_path")
    @classmethod
    def _no_path(cls, value: str) -> str:
        if value:
            raise ValueError("models of one's own are not read from a path; start from one as a base experiment")
        return value


class PruneSpec(DialectSpec):
    prune: Prune = section(Prune)

    FAMILY = family.PruneSpec
    NAMES: ClassVar = {
        "prune.threshold": "prune.pruning_threshold",
        "prune.granularity": "prune.granularity",
        "prune.min_num_filters": "prune.min_channels",
        "prune.method": "prune.method",
        "prune.pruning_ratio": "prune.pruning_ratio",
    }

"""Specs of `classification`, in the words of the v4 document and of its clients. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from ...schemas.specs import Spec, like, parameter, section
from ..backbones import timm_name, with_layers
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


class ModelConfig(Spec):
    arch: str = parameter(
        "resnet",
        description="Architecture: resnet, vgg, darknet or cspdarknet of n_layers, mobilenet_v2, efficientnet-b0 and "
        "others, or any timm model.",
        popular=True,
        pattern=family.BACKBONE,
    )
    n_layers: int = parameter(
        18, description="Layers of an architecture that comes in several sizes.", ge=1, le=1000, popular=True
    )
    input_image_size: str = parameter(
        "3,0,0",
        description="Channels (3 for colour, 1 for grey), height and width of the input. A height and width of 0 are "
        "taken from the training images.",
        pattern=r"^[13],\d{1,4},\d{1,4}$",
        popular=True,
    )
    dropout: float = like(family.Backbone, "drop_rate")

    @model_validator(mode="after")
    def _is_here(self) -> ModelConfig:
        timm_name(self.backbone)
        return self

    @field_validator("input_image_size")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        height, width = map(int, value.split(",")[1:])
        if (height, width) != (0, 0) and not (min(height, width) >= 16 and max(height, width) <= 2048):
            raise ValueError("height and width are both 0, or both from 16 to 2048")
        return value

    @property
    def backbone(self) -> str:
        return with_layers(self.arch, self.n_layers)

    def converted(self) -> dict[str, Any]:
        """Return the model of the family."""
        channels, height, width = map(int, self.input_image_size.split(","))
        return {
            "model.backbone.type": self.backbone,
            "model.input_channels": channels,
            "model.input_height": height,
            "model.input_width": width,
        }


#: Of a section `model_config`.
MODEL_NAMES = {
    "model_config.arch": "model.backbone.type",
    "model_config.input_image_size": "model.input_width",
    "model_config.dropout": "model.backbone.drop_rate",
}


class Optimizer(Spec):
    type: Literal["sgd", "adam", "adamw"] = like(family.Optimizer, "type", "sgd")
    momentum: float = like(family.Optimizer, "momentum")


class TrainConfig(MixingAugmentation, Loop, ClassWeighting):
    n_epochs: int = like(family.Runner, "max_epochs", 80, title="Epochs")
    random_seed: int = like(family.ExperimentConfig, "manual_seed", 42)
    preprocess_mode: Preprocess = preprocess_mode()
    optimizer: Optimizer = section(Optimizer)
    lr_config: LrConfig = section(LrConfig)
    reg_config: RegConfig = section(RegConfig)
    evaluation: family.Evaluation = section(family.Evaluation)


class EvalConfig(Spec):
    batch_size: int = like(family.ReadDataset, "batch_size")
    samples: int = like(family.Evaluate, "samples")


class TrainSpec(DialectSpec):
    """Spec of `train` and `retrain`; a retrain takes the architecture from its parent, not from `model_config`."""

    gpus: int = like(family.Train, "num_gpus")
    network: ModelConfig = section(ModelConfig, name="model_config")
    train_config: TrainConfig = section(TrainConfig)
    eval_config: EvalConfig = section(EvalConfig, description="Of evaluate jobs that have no spec of their own.")

    FAMILY = family.TrainSpec
    NAMES: ClassVar = {
        "gpus": "train.num_gpus",
        **MODEL_NAMES,
        "train_config.n_epochs": "train.train_config.runner.max_epochs",
        "train_config.random_seed": "train.exp_config.manual_seed",
        "train_config.optimizer": "train.train_config.optimizer",
        "train_config.reg_config.weight_decay": "train.train_config.optimizer.weight_decay",
        "train_config.evaluation": "train.train_config.evaluation",
        **under("train_config.lr_config", LrConfig.NAMES),
        **under("train_config", Loop.NAMES),
        **under("train_config", ClassWeighting.NAMES),
    }

    def converted(self) -> dict[str, Any]:
        train = self.train_config
        return {
            **self.network.converted(),
            "dataset.augmentation": MixingAugmentation.converted(train),
            "train.train_config.lr_config": train.lr_config.converted(train.n_epochs),
            "train.train_config.optimizer.weight_decay": (
                train.reg_config.weight_decay if train.reg_config.type == "L2" else 0.0
            ),
            **preprocessing(train.preprocess_mode),
        }


class EvaluateSpec(DialectSpec):
    eval_config: EvalConfig = section(EvalConfig)

    FAMILY = family.EvaluateSpec
    NAMES: ClassVar = {"eval_config.batch_size": "dataset.batch_size", "eval_config.samples": "evaluate.samples"}

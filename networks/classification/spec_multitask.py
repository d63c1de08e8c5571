"""Specs of `multitask_classification`, in the words of the v4 document's clients. Imports no torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from ...schemas.specs import Spec, like, parameter, section
from ..dialects import DialectSpec
from . import spec as family
from . import spec_tf1
from .dialect_sections import Augmentation, Loop, RegConfig, under


class ModelConfig(spec_tf1.ModelConfig):
    n_layers: int = like(spec_tf1.ModelConfig, "n_layers", 10)


class Schedule(Spec):
    # why: a sweep must not look below the default of the other.
    max_learning_rate: float = like(family.Optimizer, "lr", 0.01, automl_minimum=0.0001)
    min_learning_rate: float = parameter(0.00006, description="Rate that the cosine falls to.", ge=0, le=10)
    soft_start: float = parameter(
        0.1,
        description="Share of the epochs in which the rate rises to its peak.",
        ge=0,
        lt=1,
        automl=True,
        search=(None, 0.3),
    )

    @model_validator(mode="after")
    def _falls(self) -> Schedule:
        if self.min_learning_rate > self.max_learning_rate:
            raise ValueError("min_learning_rate is at most max_learning_rate")
        return self


class LearningRate(Spec):
    soft_start_cosine_annealing_schedule: Schedule = section(Schedule)


class Optimizer(Spec):
    type: Literal["adamw", "adam", "sgd"] = like(family.Optimizer, "type", "adam")
    momentum: float = like(family.Optimizer, "momentum")


class Regularizer(Spec):
    type: Literal["L2", "none"] = like(RegConfig, "type")
    weight: float = like(family.Optimizer, "weight_decay", 0.00009)


class Evaluation(Spec):
    interval: int = like(family.Evaluation, "interval")
    metric: Literal["accuracy_top-1", "loss"] = like(
        family.Evaluation,
        "metric",
        description="What the best checkpoint is best in, on the evaluation data: the mean over the tasks.",
    )


class TrainingConfig(Loop):
    num_epochs: int = like(family.Runner, "max_epochs", 10, title="Epochs")
    batch_size_per_gpu: int = like(family.TrainDataset, "batch_size", 16)
    learning_rate: LearningRate = section(LearningRate)
    optimizer: Optimizer = section(Optimizer)
    regularizer: Regularizer = section(Regularizer)
    augmentation: Augmentation = section(Augmentation)
    evaluation: Evaluation = section(Evaluation)


_SCHEDULE = "training_config.learning_rate.soft_start_cosine_annealing_schedule"


class TrainSpec(DialectSpec):
    """Spec of `train` and `retrain`; a retrain takes the architecture from its parent, not from `model_config`."""

    gpus: int = like(family.Train, "num_gpus")
    random_seed: int = like(family.ExperimentConfig, "manual_seed", 42)
    network: ModelConfig = section(ModelConfig, name="model_config")
    training_config: TrainingConfig = section(TrainingConfig)

    FAMILY = family.TrainSpec
    NAMES: ClassVar = {
        "gpus": "train.num_gpus",
        "random_seed": "train.exp_config.manual_seed",
        **spec_tf1.MODEL_NAMES,
        "training_config.num_epochs": "train.train_config.runner.max_epochs",
        "training_config.optimizer": "train.train_config.optimizer",
        "training_config.regularizer.weight": "train.train_config.optimizer.weight_decay",
        "training_config.evaluation": "train.train_config.evaluation",
        f"{_SCHEDULE}.max_learning_rate": "train.train_config.optimizer.lr",
        f"{_SCHEDULE}.min_learning_rate": "train.train_config.lr_config.min_lr_ratio",
        f"{_SCHEDULE}.soft_start": "train.train_config.lr_config.warmup_epochs",
        **under("training_config", Loop.NAMES),
    }

    def converted(self) -> dict[str, Any]:
        train = self.training_config
        rates, decay = train.learning_rate.soft_start_cosine_annealing_schedule, train.regularizer
        return {
            **self.network.converted(),
            "dataset.augmentation": train.augmentation.converted(),
            "train.train_config.lr_config.min_lr_ratio": rates.min_learning_rate / rates.max_learning_rate,
            "train.train_config.lr_config.warmup_epochs": min(1000.0, rates.soft_start * train.num_epochs),
            "train.train_config.optimizer.weight_decay": decay.weight if decay.type == "L2" else 0.0,
        }


class EvaluateSpec(DialectSpec):
    batch_size: int = like(family.ReadDataset, "batch_size")
    samples: int = like(family.Evaluate, "samples")

    FAMILY = family.EvaluateSpec
    NAMES: ClassVar = {"batch_size": "dataset.batch_size", "samples": "evaluate.samples"}

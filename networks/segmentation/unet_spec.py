"""Specs of `unet`, one model per action, with the sections that clients of the API documents know."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ...datasets.mask_classes import ValueClass
from ...schemas.specs import Spec, parameter, section
from ..reading_spec import Reading
from .spec_parts import Augmentation, Evaluate, Inference, InputSize, MaskClass, Metric, checked_classes


class Model(InputSize):
    arch: str = parameter(
        "resnet18",
        description="Encoder: any timm model of convolutions that gives features of several sizes, for example "
        "resnet18, vgg11_bn, efficientnet_b0 or mobilenetv2_100.",
        popular=True,
        pattern=r"^[A-Za-z0-9_.]{1,100}$",
    )
    decoder_channels: int = parameter(
        256,
        description="Channels of the deepest step of the decoder; each further one has half of them, but at least 16.",
        ge=16,
        le=2048,
        multiple_of=8,
    )


class TargetClass(MaskClass):
    name: str = parameter(description="Name of the class.", min_length=1, max_length=200)


class DataClassConfig(Spec):
    target_classes: list[TargetClass] = parameter(
        [],
        description="The classes of the masks. Empty: those of classes.txt in the data set, else every value that "
        "occurs in its masks is a class.",
        max_length=1000,
    )

    @field_validator("target_classes")
    @classmethod
    def _checked(cls, value: list[TargetClass]) -> list[TargetClass]:
        checked_classes([entry.as_value(entry.name) for entry in value])
        return value


class DatasetConfig(Reading):
    data_class_config: DataClassConfig = section(DataClassConfig)
    augmentation_config: Augmentation = section(Augmentation)

    @property
    def listed_classes(self) -> list[ValueClass]:
        ordered = sorted(self.data_class_config.target_classes, key=lambda entry: entry.label_id)
        return [entry.as_value(entry.name) for entry in ordered]


class TrainingConfig(Spec):
    epochs: int = parameter(
        50, description="Number of passes over the training data.", ge=1, le=100000, popular=True, title="Epochs"
    )
    batch_size: int = parameter(
        8,
        description="Images per step and GPU.",
        ge=1,
        le=1024,
        popular=True,
        automl=True,
        search=(2, 64),
        log=True,
        math_cond="^ 2",
    )
    loss: Literal["cross_entropy", "cross_dice_sum", "dice"] = parameter(
        "cross_entropy", description="Loss; cross_dice_sum helps small classes.", popular=True, automl=True
    )
    optimizer: Literal["adamw", "adam", "sgd"] = parameter("adamw", description="Optimizer.", automl=True)
    learning_rate: float = parameter(
        0.001,
        description="Peak learning rate.",
        gt=0,
        le=10,
        popular=True,
        automl_default=True,
        search=(1e-5, 0.05),
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
    lr_policy: Literal["cosine", "step", "constant", "poly"] = parameter(
        "cosine", description="How the learning rate falls after the warm-up.", automl=True
    )
    warmup_epochs: float = parameter(
        0.5, description="Epochs of linear rise to the peak.", ge=0, le=1000, automl=True, search=(None, 5.0)
    )
    grad_clip: float = parameter(0.0, description="Largest norm of the gradient; 0 means no clipping.", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = parameter(
        "auto", description="Mixed precision. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on CPU."
    )
    metric: Metric = parameter("mIoU", description="What the best checkpoint is best in, on the evaluation data.")
    evaluation_interval: int = parameter(
        1, description="Evaluate after every n-th epoch, and after the last.", ge=1, le=100000
    )
    checkpoint_interval: int = parameter(
        10, description="Keep the weights of every n-th epoch, besides the best and the latest.", ge=1, le=100000
    )
    patience: int = parameter(
        0, description="Stop after so many evaluations without improvement; 0 never stops early.", ge=0, le=100000
    )
    random_seed: int = parameter(42, description="Seed of weights, order and augmentation.", ge=0, le=4294967295)
    deterministic: bool = parameter(
        False, description="Use only algorithms with bit-for-bit equal results; slower on GPUs."
    )


class TrainSpec(Spec):
    """Spec of `train` and `retrain`; a retrain takes the architecture and the classes from its parent."""

    gpus: int = parameter(
        1,
        description="GPUs to train on. A machine without GPUs runs as many processes on its CPUs.",
        ge=1,
        le=64,
        popular=True,
    )
    model: Model = section(Model)
    dataset_config: DatasetConfig = section(DatasetConfig)
    training_config: TrainingConfig = section(TrainingConfig)


class ReadConfig(Spec):
    batch_size: int = parameter(8, description="Images per step.", ge=1, le=1024, popular=True)


class EvaluateSpec(Spec):
    dataset_config: ReadConfig = section(ReadConfig)
    evaluate: Evaluate = section(Evaluate)


class InferenceSpec(Spec):
    dataset_config: ReadConfig = section(ReadConfig)
    inference: Inference = section(Inference)

"""Specs of the detectors of the v4 document: the sections that all of them have. Imports no torch."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...schemas.specs import Spec, like, parameter, section
from ..backbones import timm_name, with_layers
from ..reading_spec import Reading

Metric = Literal["mAP50", "mAP", "loss"]


def numbers(value: object) -> object:
    """Return the list that clients of the v4 document write as text, `"[1.0, 1.0/3.0]"`."""
    if not isinstance(value, str):
        return value
    found = []
    for word in re.sub(r"[\[\]\s]", "", value).split(","):
        above, _, below = word.partition("/")
        try:
            found.append(float(Fraction(above) / Fraction(below or "1")))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{word!r} is no number") from None
    return found


#: Positive numbers, also as text with fractions.
Numbers = Annotated[list[Annotated[float, Field(gt=0, le=10000)]], BeforeValidator(numbers)]


class Architecture(Spec):
    """What a network is made of. Each has a section of this kind, with more in it."""

    arch: str = parameter(
        "resnet",
        description="Backbone: resnet, vgg or darknet of nlayers, mobilenet_v2, efficientnet-b0 and others, or any "
        "timm model of convolutions that gives features of several sizes.",
        popular=True,
        pattern=r"^[A-Za-z0-9_.\-]{1,100}$",
    )
    nlayers: int = parameter(
        18, description="Layers of a backbone that comes in several sizes.", ge=1, le=1000, popular=True
    )

    @model_validator(mode="after")
    def _is_here(self) -> Architecture:
        timm_name(with_layers(self.arch, self.nlayers))
        return self

    @property
    def backbone(self) -> str:
        return timm_name(with_layers(self.arch, self.nlayers))


class DatasetConfig(Reading):
    cache_mb: int = like(
        Reading,
        "cache_mb",
        description="Memory in MiB for decoded pictures. A set that fits is decoded once.",
    )
    keep_aspect_ratio: bool = parameter(
        True, description="Fill what is left of the input with grey instead of stretching pictures to its proportions."
    )


class AugmentationConfig(Spec):
    """The size of the input, and what happens to training pictures and their boxes alike."""

    output_width: int = parameter(
        0,
        description="Width in pixels of the input, a multiple of 32. 0 takes it from the training pictures: their "
        "median size, a multiple of 32 from 32 to 512.",
        ge=0,
        le=4096,
        multiple_of=32,
        popular=True,
    )
    output_height: int = parameter(
        0,
        description="Height in pixels of the input. 0: as for the width.",
        ge=0,
        le=4096,
        multiple_of=32,
        popular=True,
    )
    output_channel: Literal[1, 3] = parameter(3, description="3 for colour, 1 for grey.")
    horizontal_flip: float = parameter(
        0.5, description="Probability of a left-right flip.", ge=0, le=1, popular=True, automl=True, search=(None, 0.5)
    )
    zoom: float = parameter(
        0.3,
        description="Pictures are enlarged or shrunk by up to this share, at random places.",
        ge=0,
        le=4,
        popular=True,
        automl=True,
        search=(None, 1.0),
    )
    mosaic_prob: float = parameter(
        0.0, description="Probability of four pictures in one, a piece of each.", ge=0, le=1, automl=True
    )
    brightness: float = parameter(0.2, description="Strength of brightness jitter.", ge=0, le=1, automl=True)
    contrast: float = parameter(0.2, description="Strength of contrast jitter.", ge=0, le=1, automl=True)
    saturation: float = parameter(0.2, description="Strength of saturation jitter.", ge=0, le=1, automl=True)
    hue: float = parameter(0.02, description="Strength of hue jitter.", ge=0, le=0.5, automl=True, search=(None, 0.1))
    min_visible: float = parameter(
        0.3,
        description="Boxes of which zoom and mosaic leave less than this share of the area are left out.",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> AugmentationConfig:
        if (self.output_width == 0) != (self.output_height == 0):
            raise ValueError("set both output_width and output_height, or none")
        return self


class Schedule(Spec):
    max_learning_rate: float = parameter(
        0.001,
        description="Peak learning rate.",
        gt=0,
        le=10,
        popular=True,
        automl_default=True,
        # why: a sweep must not look below the default of the other.
        search=(0.0001, 0.05),
        log=True,
    )
    min_learning_rate: float = parameter(0.00001, description="Rate that the cosine falls to.", ge=0, le=10)
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
    soft_start_annealing_schedule: Schedule = section(Schedule)


class Optimizer(Spec):
    type: Literal["adamw", "adam", "sgd"] = parameter("adamw", description="Optimizer.", automl=True)
    momentum: float = parameter(0.9, description="Momentum, of SGD only.", ge=0, lt=1, automl=True, search=(0.5, 0.99))


class Regularizer(Spec):
    type: Literal["L2", "none"] = parameter("L2", description="L2 decays weights, none does not.")
    weight: float = parameter(
        0.0005,
        description="Weight decay; not applied to biases and norms.",
        ge=0,
        le=1,
        automl_default=True,
        search=(1e-6, 0.1),
        log=True,
    )


class EarlyStopping(Spec):
    patience: int = parameter(
        0, description="Stop after so many evaluations without improvement; 0 never stops early.", ge=0, le=100000
    )
    min_delta: float = parameter(0.0, description="Smallest change that counts as one.", ge=0, le=1)


class TrainingConfig(Spec):
    num_epochs: int = parameter(
        10, description="Number of passes over the training data.", ge=1, le=100000, popular=True, title="Epochs"
    )
    batch_size_per_gpu: int = parameter(
        8,
        description="Pictures per step and GPU.",
        ge=1,
        le=1024,
        popular=True,
        automl=True,
        search=(2, 64),
        log=True,
        math_cond="^ 2",
    )
    learning_rate: LearningRate = section(LearningRate)
    optimizer: Optimizer = section(Optimizer)
    regularizer: Regularizer = section(Regularizer)
    early_stopping: EarlyStopping = section(EarlyStopping)
    checkpoint_interval: int = parameter(
        10, description="Keep the weights of every n-th epoch, besides the best and the latest.", ge=1, le=100000
    )
    grad_clip: float = parameter(10.0, description="Largest norm of the gradient; 0 means no clipping.", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = parameter(
        "auto", description="Mixed precision. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on CPU."
    )
    deterministic: bool = parameter(
        False, description="Use only algorithms with bit-for-bit equal results; slower on GPUs."
    )


class NmsConfig(Spec):
    """Which of the boxes that a network proposes are told."""

    confidence_threshold: float = parameter(
        0.01, description="Boxes of which the network is less sure are left out.", ge=0, lt=1, popular=True
    )
    clustering_iou_threshold: float = parameter(
        0.5,
        description="Of two boxes of a class that overlap more, as a share of their union, the surer one stays.",
        gt=0,
        lt=1,
        popular=True,
    )
    top_k: int = parameter(100, description="Boxes of a picture at most, the surest first.", ge=1, le=1000)


class EvalConfig(Spec):
    batch_size: int = parameter(8, description="Pictures per step.", ge=1, le=1024, popular=True)
    samples: int = parameter(8, description="Pictures in the figure of samples, worst first.", ge=1, le=50)


class TrainingEvalConfig(EvalConfig):
    validation_period_during_training: int = parameter(
        1, description="Evaluate after every n-th epoch, and after the last.", ge=1, le=100000
    )
    metric: Metric = parameter("mAP50", description="What the best checkpoint is best in, on the evaluation data.")


class TrainSpec(Spec):
    """Base of the specs of `train` and `retrain`; a retrain takes the architecture and the classes from its parent.

    Each network adds its own section, the name of the field in `SECTION`.
    """

    SECTION: ClassVar[str]
    NETWORK: ClassVar[str]

    gpus: int = parameter(
        1,
        description="GPUs to train on. A machine without GPUs runs as many processes on its CPUs.",
        ge=1,
        le=64,
        popular=True,
    )
    random_seed: int = parameter(42, description="Seed of weights, order and augmentation.", ge=0, le=4294967295)
    dataset_config: DatasetConfig = section(DatasetConfig)
    augmentation_config: AugmentationConfig = section(AugmentationConfig)
    training_config: TrainingConfig = section(TrainingConfig)
    nms_config: NmsConfig = section(NmsConfig)
    eval_config: TrainingEvalConfig = section(TrainingEvalConfig)

    @property
    def architecture(self) -> Architecture:
        found: Architecture = getattr(self, self.SECTION)
        return found


class EvaluateSpec(Spec):
    eval_config: EvalConfig = section(EvalConfig)
    nms_config: NmsConfig = section(NmsConfig)


class InferenceNmsConfig(NmsConfig):
    confidence_threshold: float = like(NmsConfig, "confidence_threshold", 0.3)


class InferenceConfig(Spec):
    batch_size: int = like(EvalConfig, "batch_size")
    overlays: bool = parameter(True, description="Also write each picture with its boxes drawn on it.")
    samples: int = parameter(8, description="Pictures in the figure of samples.", ge=1, le=50)


class InferenceSpec(Spec):
    inference_config: InferenceConfig = section(InferenceConfig)
    nms_config: NmsConfig = section(InferenceNmsConfig)

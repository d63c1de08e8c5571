"""Specs of `classification_pyt`, one model per action. Imports no torch: the API process reads this."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ...schemas.specs import Spec, parameter, section
from ..backbones import timm_name
from ..deployment_specs import Prune

#: What the name of a backbone is made of.
BACKBONE = r"^[A-Za-z0-9_.-]{1,100}$"


class Backbone(Spec):
    type: str = parameter(
        "resnet18",
        description="Name of any timm model, for example resnet18, efficientnet_b0 or vit_tiny_patch16_224. Words of "
        "the API documents such as gc_vit_tiny are understood.",
        popular=True,
        pattern=BACKBONE,
    )
    pretrained: bool = parameter(
        False, description="Must be false: nothing is downloaded. Pretrained weights come from a base experiment."
    )
    drop_rate: float = parameter(
        0.0,
        description="Dropout before the classifier.",
        ge=0,
        lt=1,
        title="Dropout",
        automl=True,
        search=(None, 0.5),
    )
    drop_path_rate: float = parameter(0.0, description="Stochastic depth, where the backbone has it.", ge=0, lt=1)

    @field_validator("type")
    @classmethod
    def _is_here(cls, value: str) -> str:
        timm_name(value)
        return value

    @field_validator("pretrained")
    @classmethod
    def _no_download(cls, value: bool) -> bool:
        if value:
            raise ValueError("nothing is downloaded; give the experiment a base experiment with weights instead")
        return value


class Model(Spec):
    backbone: Backbone = section(Backbone)
    input_width: int = parameter(
        0,
        description="Width in pixels that images are resized to. 0 takes it from the training images "
        "(their median size, a multiple of 32 from 32 to 224).",
        ge=0,
        le=2048,
        popular=True,
    )
    input_height: int = parameter(
        0, description="Height in pixels that images are resized to. 0: as for the width.", ge=0, le=2048, popular=True
    )
    input_channels: Literal[1, 3] = parameter(3, description="3 for colour, 1 for grey.")

    @model_validator(mode="after")
    def _whole_size(self) -> Model:
        for size in (self.input_width, self.input_height):
            if 0 < size < 16:
                raise ValueError("input_width and input_height are 0 or at least 16")
        if (self.input_width == 0) != (self.input_height == 0):
            raise ValueError("set both input_width and input_height, or none")
        return self


class Augmentation(Spec):
    """What happens to a training image, by torchvision transforms v2."""

    horizontal_flip: float = parameter(
        0.5, description="Probability of a left-right flip.", ge=0, le=1, popular=True, automl=True, search=(None, 0.5)
    )
    vertical_flip: float = parameter(0.0, description="Probability of a top-bottom flip.", ge=0, le=1)
    rotation: float = parameter(
        0.0,
        description="Largest rotation to either side, in degrees.",
        ge=0,
        le=180,
        automl=True,
        search=(None, 30.0),
    )
    translation: float = parameter(
        0.0, description="Largest shift as a share of the image.", ge=0, le=0.9, automl=True, search=(None, 0.2)
    )
    crop_min_scale: float = parameter(
        1.0,
        description="Smallest share of the area that a random crop keeps; 1 means no crop.",
        gt=0,
        le=1,
        automl=True,
        search=(0.3, None),
    )
    brightness: float = parameter(0.0, description="Strength of brightness jitter.", ge=0, le=1)
    contrast: float = parameter(0.0, description="Strength of contrast jitter.", ge=0, le=1)
    saturation: float = parameter(0.0, description="Strength of saturation jitter.", ge=0, le=1)
    hue: float = parameter(0.0, description="Strength of hue jitter.", ge=0, le=0.5)
    policy: Literal["none", "randaugment", "trivialaugment"] = parameter(
        "none", description="An automatic augmentation policy, before the others.", automl=True
    )
    erasing: float = parameter(
        0.0, description="Probability of erasing a rectangle.", ge=0, le=1, automl=True, search=(None, 0.5)
    )
    mixup_alpha: float = parameter(
        0.0, description="Alpha of MixUp; 0 means off.", ge=0, le=10, automl=True, search=(None, 1.0)
    )
    cutmix_alpha: float = parameter(
        0.0, description="Alpha of CutMix; 0 means off. With MixUp on, each batch takes one of the two.", ge=0, le=10
    )


class TrainDataset(Spec):
    batch_size: int = parameter(
        32,
        description="Images per step and GPU.",
        ge=1,
        le=8192,
        popular=True,
        title="Batch size",
        automl=True,
        search=(8, 256),
        log=True,
        math_cond="^ 2",
    )
    workers: int = parameter(
        2,
        description="Processes per GPU that read and augment images; 0: the training process does.",
        ge=0,
        le=64,
    )
    cache_mb: int = parameter(
        1024,
        description="Memory in MiB for decoded images. A set that fits is decoded once, and small images are then "
        "read without worker processes.",
        ge=0,
        le=1048576,
    )
    mean: list[float] = parameter(
        [0.485, 0.456, 0.406],
        description="Mean per channel that is subtracted, for pixels from 0 to 1.",
        min_length=1,
        max_length=3,
    )
    std: list[float] = parameter(
        [0.229, 0.224, 0.225],
        description="Standard deviation per channel that is divided by.",
        min_length=1,
        max_length=3,
    )
    augmentation: Augmentation = section(Augmentation)
    class_weighting: Literal["none", "balanced", "explicit"] = parameter(
        "none", description="Weights of the classes in the loss: equal, by inverse frequency, or as in class_weights."
    )
    class_weights: dict[str, float] = parameter(
        {}, description="Weight per class name, for explicit weighting; a class that is left out weighs 1."
    )

    @field_validator("std")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if min(value) <= 0:
            raise ValueError("every standard deviation must be above 0")
        return value

    @field_validator("class_weights")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        if any(weight < 0 for weight in value.values()):
            raise ValueError("no class weight may be below 0")
        return value

    @model_validator(mode="after")
    def _weights_are_used(self) -> TrainDataset:
        if (self.class_weighting == "explicit") != bool(self.class_weights):
            raise ValueError("class_weights and class_weighting=explicit belong together")
        return self


class Runner(Spec):
    max_epochs: int = parameter(
        40, description="Number of passes over the training data.", ge=1, le=100000, popular=True, title="Max epochs"
    )


class CheckpointConfig(Spec):
    interval: int = parameter(
        10, description="Keep the weights of every n-th epoch, besides the best and the latest.", ge=1, le=100000
    )
    keep_last: int = parameter(
        1,
        description="Keep the weights of the last n epochs. Above 1 the weights of every epoch are written.",
        ge=1,
        le=1000,
    )
    pinned: list[Annotated[int, Field(ge=1, le=100000)]] = parameter(
        [], description="Epochs whose weights are always kept.", max_length=1000
    )
    minutes: float = parameter(
        10.0, description="Save a checkpoint within an epoch after so many minutes without one.", gt=0, le=10080
    )


class Evaluation(Spec):
    interval: int = parameter(1, description="Evaluate after every n-th epoch, and after the last.", ge=1, le=100000)
    metric: Literal["accuracy_top-1", "accuracy_top-5", "loss"] = parameter(
        "accuracy_top-1",
        description="What the best checkpoint is best in, on the evaluation data. accuracy_top-5 needs six classes.",
    )


class EarlyStopping(Spec):
    patience: int = parameter(
        0, description="Stop after so many evaluations without improvement; 0 never stops early.", ge=0, le=100000
    )
    min_delta: float = parameter(0.0, description="Smallest change of the metric that counts as improvement.", ge=0)


class Optimizer(Spec):
    type: Literal["adamw", "adam", "sgd"] = parameter("adamw", description="Optimizer.", popular=True, automl=True)
    lr: float = parameter(
        0.001,
        description="Peak learning rate.",
        gt=0,
        le=10,
        popular=True,
        title="Learning rate",
        automl_default=True,
        search=(1e-5, 0.1),
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


class LrConfig(Spec):
    policy: Literal["cosine", "step", "constant"] = parameter(
        "cosine", description="How the learning rate falls after the warm-up.", popular=True, automl=True
    )
    warmup_epochs: float = parameter(
        0.5,
        description="Epochs of linear rise to the peak.",
        ge=0,
        le=1000,
        automl=True,
        search=(None, 5.0),
        depends_on="<= train.train_config.runner.max_epochs",
    )
    min_lr_ratio: float = parameter(0.01, description="Lowest rate of the cosine, as a share of the peak.", ge=0, le=1)
    step_epochs: list[int] = parameter(
        [], description="Epochs after which the step policy lowers the rate; empty: at 60 % and 85 % of the epochs."
    )
    gamma: float = parameter(0.1, description="Factor of the step policy.", gt=0, lt=1)

    @field_validator("step_epochs")
    @classmethod
    def _rising(cls, value: list[int]) -> list[int]:
        if any(epoch < 1 for epoch in value) or sorted(set(value)) != value:
            raise ValueError("epochs are rising numbers from 1")
        return value


class TrainConfig(Spec):
    runner: Runner = section(Runner)
    checkpoint_config: CheckpointConfig = section(CheckpointConfig)
    evaluation: Evaluation = section(Evaluation)
    early_stopping: EarlyStopping = section(EarlyStopping)
    optimizer: Optimizer = section(Optimizer)
    lr_config: LrConfig = section(LrConfig)
    label_smoothing: float = parameter(
        0.0, description="Label smoothing of the loss.", ge=0, lt=1, automl_default=True, search=(None, 0.2)
    )
    grad_clip: float = parameter(0.0, description="Largest norm of the gradient; 0 means no clipping.", ge=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = parameter(
        "auto",
        description="Mixed precision. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on CPU.",
    )


class ExperimentConfig(Spec):
    manual_seed: int = parameter(
        49, description="Seed of weights, order and augmentation.", ge=0, le=4294967295, title="Seed"
    )
    deterministic: bool = parameter(
        False, description="Use only algorithms with bit-for-bit equal results; slower on GPUs."
    )


class Train(Spec):
    num_gpus: int = parameter(
        1,
        description="GPUs to train on. A machine without GPUs runs as many processes on its CPUs.",
        ge=1,
        le=64,
        popular=True,
    )
    exp_config: ExperimentConfig = section(ExperimentConfig)
    train_config: TrainConfig = section(TrainConfig)


class TrainSpec(Spec):
    """Spec of `train` and `retrain`; a retrain takes the architecture from its parent, not from `model`."""

    model: Model = section(Model)
    dataset: TrainDataset = section(TrainDataset)
    train: Train = section(Train)

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> TrainSpec:
        for name, values in (("mean", self.dataset.mean), ("std", self.dataset.std)):
            if len(values) not in {1, self.model.input_channels} and self.model.input_channels != 1:
                raise ValueError(f"dataset.{name} has {len(values)} numbers for {self.model.input_channels} channels")
        return self


class ReadDataset(Spec):
    batch_size: int = parameter(64, description="Images per step.", ge=1, le=8192, popular=True)


class Evaluate(Spec):
    samples: int = parameter(25, description="Images in the picture of samples, mistakes first.", ge=1, le=100)


class EvaluateSpec(Spec):
    dataset: ReadDataset = section(ReadDataset)
    evaluate: Evaluate = section(Evaluate)


class Inference(Spec):
    top_k: int = parameter(1, description="Labels per image in predictions.csv.", ge=1, le=1000, popular=True)
    samples: int = parameter(25, description="Number of images in the picture of samples.", ge=1, le=100)


class InferenceSpec(Spec):
    dataset: ReadDataset = section(ReadDataset)
    inference: Inference = section(Inference)


class PruneSpec(Spec):
    prune: Prune = section(Prune)

"""Specs of `mal`, one model per action, with the sections that clients of the API documents know. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ...schemas.specs import Spec, like, parameter, section
from ..backbones import timm_name
from ..detection import spec as detection
from ..detection.spec import (
    AugmentationConfig,
    EarlyStopping,
    InferenceConfig,
    Optimizer,
    Regularizer,
    TrainingConfig,
    TrainingEvalConfig,
)
from ..reading_spec import Reading

#: Words of the API documents for plain transformers -> timm. Their weights are not downloaded, so MAE is no part of it.
_TRANSFORMERS = {
    "vit-deit-tiny/16": "vit_tiny_patch16_224",
    "vit-deit-small/16": "vit_small_patch16_224",
    "vit-mae-base/16": "vit_base_patch16_224",
    "vit-mae-large/16": "vit_large_patch16_224",
    "vit-mae-huge/14": "vit_huge_patch14_224",
}


def _ordered(value: list[float]) -> list[float]:
    if value[0] > value[1]:
        raise ValueError("the first number is at most the second")
    return value


Margins = Annotated[
    list[Annotated[float, Field(ge=0, le=10)]], Field(min_length=2, max_length=2), AfterValidator(_ordered)
]


class Model(Spec):
    arch: str = parameter(
        "resnet18",
        description="Backbone: any timm model that gives maps of features, or a word of the API documents such as "
        "vit-deit-tiny/16 or vit-mae-base/16. Transformers need a base experiment or much data.",
        popular=True,
        pattern=r"^[A-Za-z0-9_./\-]{1,100}$",
    )
    mask_head_num_convs: int = parameter(
        4, description="Convolutions between the features and the mask.", ge=0, le=16, automl=True
    )
    mask_head_hidden_channel: int = parameter(
        128, description="Channels of these convolutions.", ge=8, le=2048, multiple_of=8, automl=True, search=(32, 256)
    )
    mask_head_out_channel: int = parameter(
        128, description="Numbers by which an object and a pixel are compared.", ge=8, le=2048, multiple_of=8
    )
    mask_scale_ratio: float = parameter(
        2.0,
        description="Masks are so many times finer than the finest features, which have a quarter of the crop's side "
        "in convolutional backbones and a sixteenth in plain transformers.",
        ge=1,
        le=8,
    )
    vit_dpr: float = parameter(
        0.0, description="Rate at which whole layers of the backbone are left out, where it can do that.", ge=0, lt=1
    )
    teacher_momentum: float = parameter(
        0.996,
        description="Share of its weights that the teacher keeps in a step; less in the first steps.",
        ge=0,
        lt=1,
        popular=True,
        automl=True,
        search=(0.9, 0.999),
    )

    @field_validator("arch")
    @classmethod
    def _is_here(cls, value: str) -> str:
        return _TRANSFORMERS.get(value) or timm_name(value)


class Augmentation(Spec):
    """What happens to a crop and its box alike."""

    horizontal_flip: float = like(AugmentationConfig, "horizontal_flip")
    brightness: float = like(AugmentationConfig, "brightness")
    contrast: float = like(AugmentationConfig, "contrast")
    saturation: float = like(AugmentationConfig, "saturation")
    hue: float = like(AugmentationConfig, "hue")


class Dataset(Reading):
    crop_size: int = parameter(
        256,
        description="Side in pixels, a multiple of 32, that the surroundings of a box are resized to.",
        ge=32,
        le=2048,
        multiple_of=32,
        popular=True,
    )
    min_obj_size: float = parameter(
        2048.0,
        description="Boxes of fewer square pixels are not learned from. Less for small pictures; 0 takes all.",
        ge=0,
        le=1e12,
        popular=True,
    )
    max_obj_size: float = parameter(
        1e10, description="Boxes of more square pixels are not learned from.", gt=0, le=1e12
    )
    cache_mb: int = like(
        Reading, "cache_mb", description="Memory in MiB for decoded pictures. A set that fits is decoded once."
    )
    augmentation: Augmentation = section(Augmentation)

    @model_validator(mode="after")
    def _grows(self) -> Dataset:
        if self.min_obj_size > self.max_obj_size:
            raise ValueError("min_obj_size is at most max_obj_size")
        return self


class Train(Spec):
    num_epochs: int = like(TrainingConfig, "num_epochs", description="Number of passes over the boxes.")
    batch_size: int = parameter(
        4, description="Boxes per step and GPU.", ge=1, le=1024, popular=True, automl=True, search=(2, 64), log=True
    )
    optim_type: Literal["adamw", "adam", "sgd"] = like(Optimizer, "type")
    optim_momentum: float = like(Optimizer, "momentum")
    lr: float = parameter(
        0.0005,
        description="Peak learning rate. With pretrained weights a tenth of it is usual, or less.",
        gt=0,
        le=10,
        popular=True,
        automl_default=True,
        search=(1e-6, 0.01),
        log=True,
    )
    min_lr_rate: float = parameter(
        0.05, description="Lowest rate of the cosine, as a share of the peak.", ge=0, le=1, automl=True
    )
    wd: float = like(Regularizer, "weight")
    warmup_epochs: float = parameter(
        1.0,
        description="Epochs in which the rate rises to its peak; half of the training at most.",
        ge=0,
        le=100000,
        automl=True,
        search=(None, 5.0),
    )
    margin_rate: Margins = parameter(
        [0.0, 1.2],
        description="How far a crop reaches beyond its box on each side, as a share of the box: least and most.",
        popular=True,
    )
    test_margin_rate: Margins = parameter(
        [0.6, 0.6],
        description="The same when masks are made. Nothing is drawn at random then: the mean of both numbers counts.",
    )
    mask_thres: float = parameter(
        0.5, description="Pixels this sure belong to the object, when masks are made.", gt=0, lt=1, automl=True
    )
    loss_mil_weight: float = parameter(
        4.0,
        description="Weight of the loss that wants rows and columns of the box to meet the mask, and no others.",
        ge=0,
        le=1000,
        automl=True,
        search=(1.0, 10.0),
    )
    loss_mil_step: int = parameter(
        0, description="Steps in which that weight rises to its value; half of the training at most.", ge=0, le=10**7
    )
    loss_crf_weight: float = parameter(
        0.5,
        description="Weight of the loss that wants edges of masks where colours change.",
        ge=0,
        le=1000,
        popular=True,
        automl=True,
        search=(0.1, 4.0),
    )
    loss_crf_step: int = parameter(
        4000, description="Steps in which that weight rises to its value; half of the training at most.", ge=0, le=10**7
    )
    crf_zeta: float = parameter(
        0.1,
        description="How unlike colours, from 0 to 1, may be and still hold pixels together.",
        gt=0,
        le=10,
        automl=True,
        search=(0.02, 0.5),
        log=True,
    )
    crf_omega: float = parameter(
        2.0,
        description="How strongly pixels of one colour hold together.",
        ge=0,
        le=100,
        automl=True,
        search=(0.5, 4.0),
    )
    crf_kernel_size: Literal[3, 5, 7] = parameter(3, description="Side in pixels of a pixel's neighbourhood.")
    crf_num_iter: int = parameter(20, description="Rounds in which every pixel follows its neighbours.", ge=1, le=1000)
    crf_value_high_thres: float = parameter(
        0.9, description="Pixels this sure after these rounds are taken for the object.", ge=0.5, lt=1
    )
    crf_value_low_thres: float = parameter(
        0.1,
        description="Pixels less sure than this are taken for background, and those between count nowhere.",
        gt=0,
        le=0.5,
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = like(TrainingConfig, "precision")
    grad_clip: float = parameter(1.0, description="Largest norm of the gradient; 0 means no clipping.", ge=0)
    metric: Literal["mIoU", "loss"] = parameter(
        "mIoU",
        description="What the best checkpoint is best in, on the evaluation data. loss needs no masks there.",
    )
    val_interval: int = like(TrainingEvalConfig, "validation_period_during_training")
    save_every_k_epoch: int = like(TrainingConfig, "checkpoint_interval")
    patience: int = like(EarlyStopping, "patience")
    seed: int = like(detection.TrainSpec, "random_seed", 1)
    deterministic: bool = like(TrainingConfig, "deterministic")


class TrainSpec(Spec):
    gpus: int = like(detection.TrainSpec, "gpus")
    strategy: Literal["ddp", "ddp_sharded"] = parameter(
        "ddp", description="How several GPUs work together. It is ddp in any case: no model here needs to be divided."
    )
    model: Model = section(Model)
    dataset: Dataset = section(Dataset)
    train: Train = section(Train)


class Look(Spec):
    """How boxes are looked at by a trained model."""

    batch_size: int = parameter(8, description="Boxes per step.", ge=1, le=1024, popular=True)
    use_teacher_test: bool = parameter(
        False, description="Let the teacher, the running mean of the network, make the masks."
    )
    use_mixed_model_test: bool = parameter(
        False, description="Let network and teacher make the masks together: the mean of both."
    )
    samples: int = parameter(8, description="Pictures in the figure of samples.", ge=1, le=50)

    @model_validator(mode="after")
    def _not_both(self) -> Look:
        if self.use_teacher_test and self.use_mixed_model_test:
            raise ValueError("set use_teacher_test or use_mixed_model_test, not both")
        return self


class EvaluateSpec(Spec):
    evaluate: Look = section(Look)


class Inference(Look):
    overlays: bool = like(
        InferenceConfig, "overlays", description="Also write each picture with its masks painted over it."
    )


class InferenceSpec(Spec):
    inference: Inference = section(Inference)

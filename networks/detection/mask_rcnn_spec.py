"""The spec of training of `mask_rcnn`, in the words of the v4 document. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...schemas.specs import Spec, like, parameter, section
from . import spec
from .spec import (
    Architecture,
    AugmentationConfig,
    DatasetConfig,
    EarlyStopping,
    NmsConfig,
    Numbers,
    Optimizer,
    Regularizer,
    Schedule,
    TrainingConfig,
    TrainingEvalConfig,
    numbers,
)
from .spec_v5 import Classes

Metric = Literal["mask_mAP50", "mask_mAP", "mAP50", "mAP", "loss"]


def _ratios(value: object) -> object:
    """Return width by height, also of pairs as text: `"[(1.0, 1.0), (1.4, 0.7)]"`."""
    if not isinstance(value, str) or "(" not in value:
        return value
    pairs = [numbers(pair) for pair in re.findall(r"\(([^()]*)\)", value)]
    if not all(isinstance(pair, list) and len(pair) == 2 and pair[1] for pair in pairs):
        raise ValueError("write pairs of a width and a height, or one number for each ratio")
    return [pair[0] / pair[1] for pair in pairs if isinstance(pair, list)]


def _size(value: object) -> object:
    """Return height and width of text such as `"(832, 1344)"`."""
    return [int(number) for number in re.findall(r"-?\d+", value)] if isinstance(value, str) else value


Ratios = Annotated[Numbers, BeforeValidator(_ratios)]
Steps = Annotated[list[Annotated[float, Field(ge=1, le=10**9)]], BeforeValidator(numbers)]
Size = Annotated[
    list[Annotated[int, Field(ge=32, le=4096, multiple_of=32)]], BeforeValidator(_size), Field(max_length=2)
]


class MaskRcnnConfig(Architecture):
    anchor_scale: float = parameter(
        8.0, description="Side of an anchor, in strides of its feature map.", gt=0, le=64, automl=True, search=(2, 16)
    )
    aspect_ratios: Ratios = parameter(
        [1.0, 2.0, 0.5],
        description="Width by height of the anchors; also text with pairs of a width and a height.",
        min_length=1,
        max_length=20,
    )
    rpn_batch_size_per_im: int = parameter(
        256, description="Anchors of a picture that the first stage learns from.", ge=8, le=4096
    )
    rpn_fg_fraction: float = parameter(0.5, description="Share of objects among these, at most.", gt=0, lt=1)
    rpn_positive_overlap: float = parameter(
        0.7, description="Anchors that overlap an object by this much are objects.", gt=0, lt=1
    )
    rpn_negative_overlap: float = parameter(
        0.3, description="Anchors that overlap no object by this much are background.", gt=0, lt=1
    )
    train_rpn_nms_threshold: float = parameter(
        0.7, description="Of two proposals that overlap more, the better one stays while it learns.", gt=0, lt=1
    )
    test_rpn_nms_thresh: float = parameter(
        0.7, description="Of two proposals that overlap more, the better one stays when it predicts.", gt=0, lt=1
    )
    test_rpn_post_nms_topn: int = parameter(
        100, description="Proposals of a picture that boxes and masks are made of.", ge=1, le=2000
    )
    batch_size_per_im: int = parameter(
        128, description="Proposals of a picture that the heads learn from.", ge=8, le=4096, automl=True
    )
    fg_fraction: float = parameter(0.25, description="Share of objects among these, at most.", gt=0, lt=1)
    fg_thresh: float = parameter(
        0.5, description="Proposals that overlap an object by this much are objects, others background.", gt=0, lt=1
    )
    feature_size: int = parameter(256, description="Channels of the feature pyramid.", ge=8, le=1024, multiple_of=8)
    fast_rcnn_mlp_head_dim: int = parameter(
        1024, description="Width of the two layers that boxes are made of.", ge=8, le=4096, multiple_of=8
    )
    mask_head_dim: int = parameter(
        256, description="Channels of the layers that masks are made of.", ge=8, le=1024, multiple_of=8
    )
    mask_head_layers: int = parameter(4, description="Number of these layers.", ge=1, le=16)
    mrcnn_resolution: int = parameter(
        28, description="Cells along each side of a mask.", ge=8, le=112, multiple_of=2, popular=True
    )
    rpn_box_loss_weight: float = parameter(
        1.0, description="Weight of the loss of the places of anchors.", ge=0, le=100, automl=True, search=(None, 10.0)
    )
    fast_rcnn_box_loss_weight: float = parameter(
        1.0, description="Weight of the loss of the places of boxes.", ge=0, le=100, automl=True, search=(None, 10.0)
    )
    mrcnn_weight_loss_mask: float = parameter(
        1.0, description="Weight of the loss of masks.", ge=0, le=100, automl=True, search=(None, 10.0)
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.rpn_negative_overlap > self.rpn_positive_overlap:
            raise ValueError("rpn_negative_overlap is at most rpn_positive_overlap")
        return self


class DataConfig(DatasetConfig, Classes):
    image_size: Size = parameter(
        [],
        description="Height and width in pixels of the input, multiples of 32; also text such as (832, 1344). Empty "
        "takes it from the training pictures: their median size, a multiple of 32 from 32 to 512.",
        popular=True,
    )
    augment_input_data: bool = parameter(True, description="Whether pictures are changed as augmentation_config says.")

    @model_validator(mode="after")
    def _two_or_none(self) -> Self:
        if len(self.image_size) == 1:
            raise ValueError("give height and width as image_size, or nothing")
        return self


class MaskAugmentation(Spec):
    """What happens to training pictures, their boxes and their masks alike."""

    horizontal_flip: float = like(AugmentationConfig, "horizontal_flip")
    zoom: float = like(AugmentationConfig, "zoom")
    mosaic_prob: float = like(AugmentationConfig, "mosaic_prob")
    brightness: float = like(AugmentationConfig, "brightness")
    contrast: float = like(AugmentationConfig, "contrast")
    saturation: float = like(AugmentationConfig, "saturation")
    hue: float = like(AugmentationConfig, "hue")
    min_visible: float = like(AugmentationConfig, "min_visible")


class MaskEvalConfig(Spec):
    validation_period_during_training: int = like(TrainingEvalConfig, "validation_period_during_training")
    metric: Metric = parameter("mask_mAP50", description="What the best checkpoint is best in, on the evaluation data.")


class MaskRcnnTrainSpec(Spec):
    """A retrain takes the architecture and the classes from its parent."""

    gpus: int = like(spec.TrainSpec, "gpus")
    seed: int = like(spec.TrainSpec, "random_seed")
    num_epochs: int = like(TrainingConfig, "num_epochs")
    num_examples_per_epoch: int = parameter(
        0,
        description="For clients of the API document: an epoch is always one pass over the training data.",
        ge=0,
        le=10**9,
    )
    train_batch_size: int = like(TrainingConfig, "batch_size_per_gpu", 4)
    optimizer: Literal["adamw", "adam", "sgd"] = like(Optimizer, "type")
    momentum: float = like(Optimizer, "momentum")
    l2_weight_decay: float = like(Regularizer, "weight")
    init_learning_rate: float = like(Schedule, "max_learning_rate")
    warmup_steps: int = parameter(
        0,
        description="Steps in which the rate rises to its peak, half of the training at most; 0: a tenth of all steps.",
        ge=0,
        le=10**9,
    )
    learning_rate_steps: Steps = parameter(
        [],
        description="Steps of the training at which the rate drops, rising; also text such as [6000, 8000]. Empty: it "
        "falls along a cosine to a hundredth.",
        max_length=100,
        popular=True,
    )
    learning_rate_decay_levels: Numbers = parameter(
        [0.1, 0.02, 0.002],
        description="Share of init_learning_rate from each of learning_rate_steps on; as many as there are steps, or "
        "more.",
        max_length=100,
    )
    early_stopping: EarlyStopping = section(EarlyStopping)
    checkpoint_interval: int = like(TrainingConfig, "checkpoint_interval")
    grad_clip: float = like(TrainingConfig, "grad_clip")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = like(TrainingConfig, "precision")
    deterministic: bool = like(TrainingConfig, "deterministic")
    data_config: DataConfig = section(DataConfig)
    augmentation_config: MaskAugmentation = section(MaskAugmentation)
    maskrcnn_config: MaskRcnnConfig = section(MaskRcnnConfig)
    nms_config: NmsConfig = section(NmsConfig)
    eval_config: MaskEvalConfig = section(MaskEvalConfig)

    @model_validator(mode="after")
    def _a_level_for_each_step(self) -> Self:
        steps = self.learning_rate_steps
        if sorted(set(steps)) != steps:
            raise ValueError("learning_rate_steps rise")
        if len(steps) > len(self.learning_rate_decay_levels):
            raise ValueError(
                f"learning_rate_steps has {len(steps)} steps, and learning_rate_decay_levels "
                f"{len(self.learning_rate_decay_levels)} levels"
            )
        return self

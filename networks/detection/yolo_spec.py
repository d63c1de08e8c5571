"""The sections of the YOLO networks in the specs of training. Imports no torch."""

from __future__ import annotations

import ast
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ...schemas.specs import Spec, like, parameter, section
from . import spec
from .spec import Architecture

#: Characters of anchors that are written as text.
_LONGEST = 1000


def _pairs(value: object) -> object:
    """Return the list that clients of the v4 document write as text, `"[(114.94, 60.67), (159.06, 114.59)]"`."""
    if isinstance(value, str):
        try:
            # why the limit: Python's parser gives up on deep nesting in ways that nobody should have to catch.
            value = ast.literal_eval(value if len(value) <= _LONGEST else "")
        except (ValueError, SyntaxError):
            raise ValueError("write anchors as [(width, height), ...]") from None
    return [[*pair] if isinstance(pair, tuple) else pair for pair in value] if isinstance(value, list) else value


_Side = Annotated[float, Field(gt=0, le=10000)]

#: Widths and heights in pixels of the input, also as text.
Anchors = Annotated[list[Annotated[list[_Side], Field(min_length=2, max_length=2)]], BeforeValidator(_pairs)]


def _anchors(which: str) -> list[list[float]]:
    found: list[list[float]] = parameter(
        [],
        description=f"Width and height in pixels of the input of the anchors for {which} objects. Empty, as in the "
        "other shapes: found by k-means in the training boxes, or those of the base experiment.",
        max_length=20,
    )
    return found


class Anchored(Spec):
    """Mixed into the sections: the anchors of two or three levels."""

    big_anchor_shape: Anchors = _anchors("big")
    mid_anchor_shape: Anchors = _anchors("middle-sized")

    @property
    def levels(self) -> list[list[list[float]]]:
        """The anchors of each level, the finest first."""
        return [self.mid_anchor_shape, self.big_anchor_shape]

    @model_validator(mode="after")
    def _all_or_none(self) -> Anchored:
        if any(self.levels) and not all(self.levels):
            raise ValueError("give the anchors of all sizes, or none")
        return self


class ThreeLevels(Anchored):
    small_anchor_shape: Anchors = _anchors("small")

    @property
    def levels(self) -> list[list[list[float]]]:
        return [self.small_anchor_shape, self.mid_anchor_shape, self.big_anchor_shape]


class Weights(Spec):
    loss_loc_weight: float = parameter(
        2.0, description="Weight of the places in the loss.", gt=0, le=100, popular=True, automl=True
    )
    loss_neg_obj_weights: float = parameter(
        1.0, description="Weight of what is an object and what is none.", gt=0, le=100, popular=True, automl=True
    )
    loss_class_weights: float = parameter(
        1.0, description="Weight of the classes in the loss.", gt=0, le=100, popular=True, automl=True
    )
    matching_neutral_box_iou: float = parameter(
        0.5,
        description="A candidate that is to find nothing, yet overlaps with an object by so much, is not wrong.",
        gt=0,
        le=1,
        automl=True,
        search=(0.3, 0.9),
    )
    # why also for YOLOv3, which has the best anchor alone: it learns several times as fast (docs/models.md).
    box_matching_iou: float = parameter(
        0.213,
        description="An object is to be found by its best anchor, and by all whose shape overlaps with it by so much; "
        "1: by the best one alone.",
        gt=0,
        le=1,
        automl=True,
        search=(0.1, 0.5),
    )


class YoloV3Config(Architecture, ThreeLevels, Weights):
    arch: str = like(Architecture, "arch", "darknet")
    nlayers: int = like(Architecture, "nlayers", 53)


class _V4(Weights):
    matching_neutral_box_iou: float = like(Weights, "matching_neutral_box_iou", 0.7)
    label_smoothing: float = parameter(0.0, description="Label smoothing of the classes.", ge=0, le=0.3, automl=True)


class YoloV4Config(Architecture, ThreeLevels, _V4):
    arch: str = like(Architecture, "arch", "cspdarknet")
    nlayers: int = like(Architecture, "nlayers", 53)


class YoloV4TinyConfig(Anchored, _V4):
    arch: Literal["cspdarknet_tiny"] = parameter("cspdarknet_tiny", description="Backbone.", popular=True)

    @property
    def backbone(self) -> str:
        return self.arch


class YoloV3TrainSpec(spec.TrainSpec):
    SECTION = "yolov3_config"
    NETWORK = "yolo_v3"

    yolov3_config: YoloV3Config = section(YoloV3Config)


class YoloV4TrainSpec(spec.TrainSpec):
    SECTION = "yolov4_config"
    NETWORK = "yolo_v4"

    yolov4_config: YoloV4Config = section(YoloV4Config)


class YoloV4TinyTrainSpec(spec.TrainSpec):
    SECTION = "yolov4_config"
    NETWORK = "yolo_v4_tiny"

    yolov4_config: YoloV4TinyConfig = section(YoloV4TinyConfig)

"""The section of `faster_rcnn` in the spec of training. Imports no torch."""

from __future__ import annotations

from ...schemas.specs import Spec, parameter, section
from . import spec
from .spec import Architecture, Numbers


class AnchorBoxConfig(Spec):
    scale: Numbers = parameter(
        [],
        description="Side in pixels of the anchors of each of the four feature maps, the finest first. Empty: 32, 64, "
        "128 and 256.",
        max_length=4,
    )
    ratio: Numbers = parameter(
        [1.0, 0.5, 2.0], description="Width by height of the anchors.", min_length=1, max_length=20
    )


class RoiPoolingConfig(Spec):
    pool_size: int = parameter(
        7, description="Width and height of what is cut out of a map for an object.", ge=2, le=28
    )


class FasterRcnnConfig(Architecture):
    anchor_box_config: AnchorBoxConfig = section(AnchorBoxConfig)
    roi_pooling_config: RoiPoolingConfig = section(RoiPoolingConfig)
    roi_mini_batch: int = parameter(
        128, description="Proposals of a picture that the second stage learns from.", ge=8, le=4096, automl=True
    )
    rpn_mini_batch: int = parameter(
        256, description="Anchors of a picture that the first stage learns from.", ge=8, le=4096
    )
    rpn_nms_max_boxes: int = parameter(
        100, description="Proposals of a picture that the second stage looks at.", ge=1, le=2000
    )
    rpn_nms_overlap_threshold: float = parameter(
        0.7, description="Of two proposals that overlap more, the better one stays.", gt=0, lt=1
    )
    feature_size: int = parameter(256, description="Channels of the feature pyramid.", ge=8, le=1024, multiple_of=8)
    head_size: int = parameter(
        1024, description="Width of the two layers of the second stage.", ge=8, le=4096, multiple_of=8
    )


class FasterRcnnTrainSpec(spec.TrainSpec):
    SECTION = "network"
    NETWORK = "faster_rcnn"

    network: FasterRcnnConfig = section(FasterRcnnConfig, name="model_config")

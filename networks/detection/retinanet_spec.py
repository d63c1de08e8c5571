"""The section of `retinanet` in the spec of training. Imports no torch."""

from __future__ import annotations

from ...schemas.specs import like, parameter, section
from . import spec
from .spec import Architecture, Numbers
from .ssd_spec import Variances


class RetinanetConfig(Architecture, Variances):
    # why not those of ssd: with them places count ten times as much as classes, and these are hardly learned.
    variances: Numbers = like(Variances, "variances", [1.0, 1.0, 1.0, 1.0])
    aspect_ratios_global: Numbers = parameter(
        [1.0, 2.0, 0.5], description="Width by height of the anchors.", min_length=1, max_length=20
    )
    anchor_scale: float = parameter(
        4.0,
        description="Side of the smallest anchors of a feature map, in its strides: 8 pixels on the finest map. What "
        "is much smaller than all anchors is hardly learned.",
        gt=0,
        le=64,
        automl=True,
        search=(1.0, 8.0),
    )
    n_anchor_levels: int = parameter(
        3,
        description="Sizes of the anchors of each feature map, evenly from the smallest to below twice that.",
        ge=1,
        le=10,
    )
    feature_size: int = parameter(
        256, description="Channels of the feature pyramid and of the heads.", ge=8, le=1024, multiple_of=8
    )
    loss_loc_weight: float = parameter(
        1.0, description="Weight of the places against the classes in the loss.", gt=0, le=100, automl=True
    )
    focal_loss_alpha: float = parameter(
        0.25, description="Weight of the objects against the background in the loss.", gt=0, lt=1, automl=True
    )
    focal_loss_gamma: float = parameter(
        2.0, description="How much less what is easy counts in the loss.", ge=0, le=10, automl=True, search=(None, 4.0)
    )


class RetinanetTrainSpec(spec.TrainSpec):
    SECTION = "retinanet_config"
    NETWORK = "retinanet"

    retinanet_config: RetinanetConfig = section(RetinanetConfig)

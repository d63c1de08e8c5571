"""The sections of `ssd` and `dssd` in the specs of training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from ...schemas.specs import Spec, parameter, section
from . import spec
from .spec import Architecture, Numbers


class Variances(Spec):
    """How far a box is moved and stretched by a code of 1."""

    variances: Numbers = parameter(
        [0.1, 0.1, 0.2, 0.2],
        description="Scales of the codes of a box: x, y, width, height.",
        min_length=4,
        max_length=4,
    )


class SsdConfig(Architecture, Variances):
    scales: Numbers = parameter(
        [],
        description="Size of the default boxes of each feature map as a share of the input, the finest map first, and "
        "one more. Empty: evenly from 0.1 to 0.9.",
        max_length=10,
    )
    aspect_ratios_global: Numbers = parameter(
        [1.0, 2.0, 0.5, 3.0, 1 / 3],
        description="Width by height of the default boxes; a ratio and its inverse go together.",
        min_length=1,
        max_length=20,
    )
    loss_loc_weight: float = parameter(
        1.0, description="Weight of the places against the classes in the loss.", gt=0, le=100, automl=True
    )
    neg_pos_ratio: float = parameter(
        3.0, description="So many default boxes without an object count for each with one, the hardest.", gt=0, le=100
    )

    @field_validator("scales")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if sorted(value) != value:
            raise ValueError("scales rise")
        return value


class DssdConfig(SsdConfig):
    pred_num_channels: int = parameter(
        128,
        description="Channels of the feature maps after they are merged with the coarser ones.",
        ge=8,
        le=2048,
        multiple_of=8,
    )
    merge: Literal["product", "sum"] = parameter(
        "sum",
        description="How a map and the coarser one are merged. product is that of the paper. Both begin as if nothing "
        "were merged.",
    )


class SsdTrainSpec(spec.TrainSpec):
    SECTION = "ssd_config"
    NETWORK = "ssd"

    ssd_config: SsdConfig = section(SsdConfig)


class DssdTrainSpec(spec.TrainSpec):
    SECTION = "dssd_config"
    NETWORK = "dssd"

    dssd_config: DssdConfig = section(DssdConfig)

"""The sections of `detectnet_v2` in the spec of training. Imports no torch."""

from __future__ import annotations

from ...schemas.specs import Spec, parameter, section
from . import spec
from .spec import Architecture


class RasterizerConfig(Spec):
    """Which cells of the grid an object covers."""

    cov_radius: float = parameter(
        0.7,
        description="Radius of the ellipse of cells that an object covers, as a share of half its width and height.",
        gt=0,
        le=1,
        automl=True,
    )
    bbox_min_radius: float = parameter(0.5, description="That ellipse has at least this radius, in cells.", gt=0, le=10)
    deadzone_radius: float = parameter(
        1.0,
        description="Cells outside of that ellipse, but in one of this radius, are not of a larger object behind it.",
        ge=0,
        le=1,
    )


class CostConfig(Spec):
    coverage_weight: float = parameter(
        1.0, description="Weight of what is covered in the loss.", gt=0, le=100, automl=True
    )
    bbox_weight: float = parameter(10.0, description="Weight of the edges in the loss.", gt=0, le=1000, automl=True)


class DetectNetConfig(Architecture):
    bbox_rasterizer_config: RasterizerConfig = section(RasterizerConfig)
    cost_function_config: CostConfig = section(CostConfig)


class DetectNetTrainSpec(spec.TrainSpec):
    SECTION = "network"
    NETWORK = "detectnet_v2"

    network: DetectNetConfig = section(DetectNetConfig, name="model_config")

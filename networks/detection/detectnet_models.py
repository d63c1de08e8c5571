"""DetectNet_v2 as its record describes it."""

from __future__ import annotations

from .detectnet import DetectNet, Learning
from .detectnet_spec import DetectNetConfig
from .model import Record


def build(record: Record) -> DetectNet:
    config = DetectNetConfig.model_validate(record.options)
    learning = Learning(
        coverage_radius=config.bbox_rasterizer_config.cov_radius,
        dead_radius=config.bbox_rasterizer_config.deadzone_radius,
        min_radius=config.bbox_rasterizer_config.bbox_min_radius,
        coverage_weight=config.cost_function_config.coverage_weight,
        box_weight=config.cost_function_config.bbox_weight,
    )
    return DetectNet(record.backbone, len(record.classes), channels=record.channels, learning=learning)

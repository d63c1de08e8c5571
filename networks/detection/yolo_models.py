"""YOLO networks as their records describe them."""

from __future__ import annotations

from .model import Record
from .yolo import Learning, Yolo, yolo_v3, yolo_v4, yolo_v4_tiny
from .yolo_anchors import levels_of
from .yolo_spec import YoloV3Config, YoloV4Config, YoloV4TinyConfig


def build(record: Record) -> Yolo:
    classes, anchors = len(record.classes), levels_of(record.options)
    if record.network == "yolo_v3":
        return yolo_v3(record.backbone, classes, anchors, channels=record.channels, learning=_learning(record))
    if record.network == "yolo_v4":
        return yolo_v4(record.backbone, classes, anchors, channels=record.channels, learning=_learning(record))
    return yolo_v4_tiny(classes, anchors, channels=record.channels, learning=_learning(record))


def _learning(record: Record) -> Learning:
    kind = {"yolo_v3": YoloV3Config, "yolo_v4": YoloV4Config, "yolo_v4_tiny": YoloV4TinyConfig}[record.network]
    config = kind.model_validate(record.options)
    is_v4 = not isinstance(config, YoloV3Config)
    return Learning(
        is_complete_iou=is_v4,
        matching_iou=config.box_matching_iou if is_v4 else None,
        neutral_iou=config.matching_neutral_box_iou,
        box_weight=config.loss_loc_weight,
        objectness_weight=config.loss_neg_obj_weights,
        class_weight=config.loss_class_weights,
        label_smoothing=config.label_smoothing if is_v4 else 0.0,
    )

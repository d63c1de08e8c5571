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
    kinds: dict[str, type[YoloV3Config] | type[YoloV4Config] | type[YoloV4TinyConfig]] = {
        "yolo_v3": YoloV3Config,
        "yolo_v4": YoloV4Config,
        "yolo_v4_tiny": YoloV4TinyConfig,
    }
    config = kinds[record.network].model_validate(record.options)
    v4 = None if isinstance(config, YoloV3Config) else config
    return Learning(
        is_complete_iou=v4 is not None,
        matching_iou=config.box_matching_iou,
        neutral_iou=config.matching_neutral_box_iou,
        box_weight=config.loss_loc_weight,
        objectness_weight=config.loss_neg_obj_weights,
        class_weight=config.loss_class_weights,
        label_smoothing=0.0 if v4 is None else v4.label_smoothing,
    )

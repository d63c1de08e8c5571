"""What the rest of the project knows about the detectors without importing torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...schemas.actions import Action
from ...schemas.specs import Spec
from ..deployment_specs import ExportSpec, FlatEngineSpec, FlatPruneSpec
from ..registry import Network
from . import (
    detectnet_spec,
    detr_spec,
    efficientdet_spec,
    faster_rcnn_spec,
    mask_rcnn_spec,
    retinanet_spec,
    spec_v5,
    ssd_spec,
    yolo_spec,
)
from .spec import EvaluateSpec, InferenceSpec

_ACTIONS = "prefect_trainyard.networks.detection.actions"

_STILL = {"horizontal_flip": 0.0, "zoom": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def _specs(train: type[Spec]) -> dict[Action, type[Spec]]:
    """Return the specs of a network of the v4 document."""
    return {
        Action.TRAIN: train,
        Action.EVALUATE: EvaluateSpec,
        Action.PRUNE: FlatPruneSpec,
        Action.RETRAIN: train,
        Action.EXPORT: ExportSpec,
        Action.GEN_TRT_ENGINE: FlatEngineSpec,
        Action.INFERENCE: InferenceSpec,
    }


def _quick(section: str, **changes: Any) -> dict[Action, dict[str, Any]]:
    return {
        Action.TRAIN: {
            section: {"arch": "test_resnet", **changes},
            "dataset_config": {"workers": 0},
            "augmentation_config": _STILL,
            "training_config": {"batch_size_per_gpu": 6, "deterministic": True, "precision": "fp32"},
        },
        Action.PRUNE: {"method": "ratio", "pruning_ratio": 0.3, "granularity": 2, "min_channels": 4},
    }


def _quick_detr(**changes: Any) -> dict[str, Any]:
    small = {"num_queries": 20, "hidden_dim": 64, "nheads": 4, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 64}
    return {
        "model": {"backbone": "test_resnet", "dropout_ratio": 0.0, **small, **changes},
        "dataset": {"workers": 0, "batch_size": 6, "augmentation": _STILL},
        "train": {"optim": {"lr": 0.001}, "deterministic": True, "precision": "fp32"},
    }


SSD = Network(
    name="ssd",
    family="detection",
    dataset_type="object_detection",
    dataset_formats=("kitti", "coco", "pascal_voc", "raw", "coco_raw"),
    specs=_specs(ssd_spec.SsdTrainSpec),
    key_metric="mAP50",
    maximize=True,
    metrics=("mAP50", "mAP", "mAP75", "mAP_small", "mAP_medium", "mAP_large", "mAR100", "loss"),
    training_metrics={"mAP50": True, "mAP": True, "loss": False},
    epochs_parameter="training_config.num_epochs",
    metric_parameter="eval_config.metric",
    implementation=f"{_ACTIONS}:SSD",
    library="torchvision.models.detection.ssd on timm.create_model",
    licence="BSD-3-Clause, Apache-2.0",
    quick=_quick("ssd_config"),
)

DSSD = replace(
    SSD,
    name="dssd",
    specs=_specs(ssd_spec.DssdTrainSpec),
    implementation=f"{_ACTIONS}:DSSD",
    library="torchvision.models.detection.ssd on timm.create_model, with deconvolutions of our own",
    quick=_quick("dssd_config", pred_num_channels=32),
)

YOLO_V3 = replace(
    SSD,
    name="yolo_v3",
    specs=_specs(yolo_spec.YoloV3TrainSpec),
    implementation=f"{_ACTIONS}:YOLO_V3",
    library="timm.create_model, with neck, heads and loss of our own",
    licence="Apache-2.0",
    quick=_quick("yolov3_config"),
)

YOLO_V4 = replace(
    YOLO_V3,
    name="yolo_v4",
    specs=_specs(yolo_spec.YoloV4TrainSpec),
    implementation=f"{_ACTIONS}:YOLO_V4",
    quick=_quick("yolov4_config"),
)

YOLO_V4_TINY = replace(
    YOLO_V3,
    name="yolo_v4_tiny",
    specs=_specs(yolo_spec.YoloV4TinyTrainSpec),
    implementation=f"{_ACTIONS}:YOLO_V4_TINY",
    library="PyTorch, all of it our own",
    quick=_quick("yolov4_config", arch="cspdarknet_tiny"),
)

DETECTNET_V2 = replace(
    SSD,
    name="detectnet_v2",
    specs=_specs(detectnet_spec.DetectNetTrainSpec),
    implementation=f"{_ACTIONS}:DETECTNET_V2",
    library="timm.create_model, with heads and loss of our own",
    licence="Apache-2.0",
    quick=_quick("model_config"),
)

EFFICIENTDET = replace(
    SSD,
    name="efficientdet",
    specs=_specs(efficientdet_spec.EfficientDetTrainSpec),
    implementation=f"{_ACTIONS}:EFFICIENTDET",
    library="timm.create_model, with pyramid, heads and loss of our own",
    licence="Apache-2.0",
    quick=_quick("model_config", anchor_scale=2.0),
)

EFFICIENTDET_TF2 = replace(
    EFFICIENTDET,
    name="efficientdet_tf2",
    specs={
        Action.TRAIN: efficientdet_spec.EfficientDetTf2TrainSpec,
        Action.EVALUATE: efficientdet_spec.EfficientDetTf2EvaluateSpec,
        Action.PRUNE: FlatPruneSpec,
        Action.RETRAIN: efficientdet_spec.EfficientDetTf2TrainSpec,
        Action.EXPORT: spec_v5.ExportV5,
        Action.GEN_TRT_ENGINE: spec_v5.EngineV5,
        Action.INFERENCE: spec_v5.InferenceV5,
    },
    epochs_parameter="train.num_epochs",
    metric_parameter="train.metric",
    implementation=f"{_ACTIONS}:EFFICIENTDET_TF2",
    quick={
        Action.TRAIN: {
            "model": {"backbone": "test_resnet", "anchor_scale": 2.0},
            "dataset": {"workers": 0, "augmentation": _STILL},
            "train": {"batch_size": 6, "deterministic": True, "precision": "fp32"},
        },
        Action.PRUNE: EFFICIENTDET.quick[Action.PRUNE],
    },
)

#: The API documents give the two no prune and no retrain.
DEFORMABLE_DETR = replace(
    SSD,
    name="deformable_detr",
    dataset_formats=("coco", "kitti", "pascal_voc", "raw", "coco_raw"),
    specs={
        Action.TRAIN: detr_spec.DeformableDetrTrainSpec,
        Action.EVALUATE: spec_v5.EvaluateV5,
        Action.EXPORT: spec_v5.ExportV5,
        Action.GEN_TRT_ENGINE: spec_v5.EngineV5,
        Action.INFERENCE: spec_v5.InferenceV5,
    },
    epochs_parameter="train.num_epochs",
    metric_parameter="train.metric",
    implementation=f"{_ACTIONS}:DEFORMABLE_DETR",
    library="timm.create_model, with a transformer of our own",
    licence="Apache-2.0",
    quick={Action.TRAIN: _quick_detr()},
)

DINO = replace(
    DEFORMABLE_DETR,
    name="dino",
    specs={**DEFORMABLE_DETR.specs, Action.TRAIN: detr_spec.DinoTrainSpec},
    implementation=f"{_ACTIONS}:DINO",
    quick={Action.TRAIN: _quick_detr(dn_number=10)},
)

RETINANET = replace(
    SSD,
    name="retinanet",
    specs=_specs(retinanet_spec.RetinanetTrainSpec),
    implementation=f"{_ACTIONS}:RETINANET",
    library="torchvision.models.detection.retinanet on timm.create_model",
    quick=_quick("retinanet_config", feature_size=32, anchor_scale=2.0),
)

FASTER_RCNN = replace(
    SSD,
    name="faster_rcnn",
    specs=_specs(faster_rcnn_spec.FasterRcnnTrainSpec),
    implementation=f"{_ACTIONS}:FASTER_RCNN",
    library="torchvision.models.detection.faster_rcnn on timm.create_model",
    quick=_quick(
        "model_config",
        feature_size=32,
        head_size=64,
        rpn_nms_max_boxes=30,
        roi_mini_batch=32,
        anchor_box_config={"scale": [16.0, 32.0, 64.0, 128.0]},
    ),
)

_OF_BOXES = SSD.metrics[:-1]

MASK_RCNN = replace(
    FASTER_RCNN,
    name="mask_rcnn",
    family="instance segmentation",
    dataset_type="instance_segmentation",
    dataset_formats=("coco", "raw", "coco_raw"),
    specs=_specs(mask_rcnn_spec.MaskRcnnTrainSpec),
    key_metric="mask_mAP50",
    metrics=("mask_mAP50", *(f"mask_{name}" for name in _OF_BOXES if name != "mAP50"), *_OF_BOXES, "loss"),
    training_metrics={"mask_mAP50": True, "mask_mAP": True, **SSD.training_metrics},
    epochs_parameter="num_epochs",
    implementation=f"{_ACTIONS}:MASK_RCNN",
    library="torchvision.models.detection.mask_rcnn on timm.create_model",
    quick={
        Action.TRAIN: {
            "maskrcnn_config": {
                "arch": "test_resnet",
                "anchor_scale": 4.0,
                "feature_size": 32,
                "fast_rcnn_mlp_head_dim": 64,
                "mask_head_dim": 32,
                "mask_head_layers": 2,
                "mrcnn_resolution": 16,
                "test_rpn_post_nms_topn": 30,
                "batch_size_per_im": 32,
            },
            "data_config": {"workers": 0, "augment_input_data": False},
            "train_batch_size": 6,
            "deterministic": True,
            "precision": "fp32",
        },
        Action.PRUNE: FASTER_RCNN.quick[Action.PRUNE],
    },
)

DETECTORS = (
    SSD,
    DSSD,
    RETINANET,
    FASTER_RCNN,
    MASK_RCNN,
    YOLO_V3,
    YOLO_V4,
    YOLO_V4_TINY,
    DETECTNET_V2,
    EFFICIENTDET,
    EFFICIENTDET_TF2,
    DEFORMABLE_DETR,
    DINO,
)

"""What the rest of the project knows about the detectors without importing torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...schemas.actions import Action
from ...schemas.specs import Spec
from ..deployment_specs import ExportSpec, FlatEngineSpec, FlatPruneSpec
from ..registry import Network
from . import faster_rcnn_spec, retinanet_spec, ssd_spec
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

DETECTORS = (SSD, DSSD, RETINANET, FASTER_RCNN)

"""What the rest of the project knows about `mal` without importing torch."""

from __future__ import annotations

from ...schemas.actions import Action
from ..registry import Network
from . import spec

#: The API document gives it no prune, no export and no engine.
MAL = Network(
    name="mal",
    family="mask labelling",
    dataset_type="instance_segmentation",
    dataset_formats=("coco",),
    # why: what it learns from are boxes; only to be measured, it needs masks.
    other_data={"object_detection": ("coco", "kitti", "pascal_voc")},
    specs={
        Action.TRAIN: spec.TrainSpec,
        Action.EVALUATE: spec.EvaluateSpec,
        Action.INFERENCE: spec.InferenceSpec,
    },
    key_metric="mIoU",
    maximize=True,
    metrics=("mIoU", "mask_mAP", "mask_mAP50", "mask_mAP75", "loss"),
    training_metrics={"mIoU": True, "loss": False},
    epochs_parameter="train.num_epochs",
    metric_parameter="train.metric",
    implementation="prefect_trainyard.networks.mal.actions:MAL",
    library="timm.create_model, with heads and losses of our own",
    licence="Apache-2.0",
    quick={
        Action.TRAIN: {
            "model": {"arch": "test_resnet", "mask_head_num_convs": 2, "mask_head_hidden_channel": 32},
            "dataset": {
                "crop_size": 64,
                "min_obj_size": 0.0,
                "workers": 0,
                "augmentation": {
                    "horizontal_flip": 0.0,
                    "brightness": 0.0,
                    "contrast": 0.0,
                    "saturation": 0.0,
                    "hue": 0.0,
                },
            },
            "train": {
                "batch_size": 6,
                "lr": 0.002,
                "margin_rate": [0.6, 0.6],
                "crf_num_iter": 10,
                "deterministic": True,
                "precision": "fp32",
            },
        },
    },
)

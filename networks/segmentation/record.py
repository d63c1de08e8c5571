"""What the rest of the project knows about `unet` and `segformer` without importing torch."""

from __future__ import annotations

from ...schemas.actions import Action
from ..deployment_specs import EngineSpec, ExportSpec, FlatEngineSpec, FlatPruneSpec, TensorfileSpec
from ..registry import Network
from . import segformer_spec, unet_spec

_FORMATS = ("unet", "raw")
_METRICS = ("mIoU", "pixel_accuracy", "mean_accuracy", "mean_dice", "loss")
_STILL = {"horizontal_flip": 0.0, "crop_min_scale": 1.0, "brightness": 0.0, "contrast": 0.0}
_TRAINING_METRICS = {"mIoU": True, "pixel_accuracy": True, "loss": False}

UNET = Network(
    name="unet",
    family="segmentation",
    dataset_type="semantic_segmentation",
    dataset_formats=_FORMATS,
    specs={
        Action.TRAIN: unet_spec.TrainSpec,
        Action.EVALUATE: unet_spec.EvaluateSpec,
        Action.PRUNE: FlatPruneSpec,
        Action.RETRAIN: unet_spec.TrainSpec,
        Action.EXPORT: ExportSpec,
        Action.CALIBRATION_TENSORFILE: TensorfileSpec,
        Action.GEN_TRT_ENGINE: FlatEngineSpec,
        Action.INFERENCE: unet_spec.InferenceSpec,
    },
    key_metric="mIoU",
    maximize=True,
    metrics=_METRICS,
    training_metrics=_TRAINING_METRICS,
    epochs_parameter="training_config.epochs",
    metric_parameter="training_config.metric",
    implementation="prefect_trainyard.networks.segmentation.actions:UNET_ACTIONS",
    library="timm.create_model, with a decoder of our own",
    licence="Apache-2.0",
    quick={
        Action.TRAIN: {
            "model": {"arch": "test_resnet", "decoder_channels": 32},
            "dataset_config": {"augmentation_config": _STILL, "workers": 0},
            "training_config": {"batch_size": 6, "learning_rate": 0.003, "deterministic": True, "precision": "fp32"},
        },
        Action.PRUNE: {"method": "ratio", "pruning_ratio": 0.3, "granularity": 2, "min_channels": 4},
    },
)

#: The API documents give it no prune and no retrain.
SEGFORMER = Network(
    name="segformer",
    family="segmentation",
    dataset_type="semantic_segmentation",
    dataset_formats=_FORMATS,
    specs={
        Action.TRAIN: segformer_spec.TrainSpec,
        Action.EVALUATE: segformer_spec.EvaluateSpec,
        Action.EXPORT: ExportSpec,
        Action.CALIBRATION_TENSORFILE: TensorfileSpec,
        Action.GEN_TRT_ENGINE: EngineSpec,
        Action.INFERENCE: segformer_spec.InferenceSpec,
    },
    key_metric="mIoU",
    maximize=True,
    metrics=_METRICS,
    training_metrics=_TRAINING_METRICS,
    epochs_parameter="train.num_rounds",
    metric_parameter="train.metric",
    implementation="prefect_trainyard.networks.segmentation.actions:SEGFORMER_ACTIONS",
    library="transformers.SegformerForSemanticSegmentation",
    licence="Apache-2.0",
    quick={
        Action.TRAIN: {
            "dataset": {"batch_size": 6, "augmentation": _STILL, "workers": 0},
            "train": {"max_iters": 60, "optim": {"lr": 0.001}, "deterministic": True, "precision": "fp32"},
        },
    },
)

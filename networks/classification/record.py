"""What the rest of the project knows about the classifiers without importing torch."""

from __future__ import annotations

from dataclasses import replace

from ...schemas.actions import Action
from .. import deployment_specs as shared
from ..registry import Network
from . import dialect_sections as flat
from . import spec, spec_multitask, spec_tf1, spec_tf2

_ACTIONS = "prefect_trainyard.networks.classification.actions"

_QUICK_LOOP = {"batch_size_per_gpu": 8, "n_workers": 0, "deterministic": True}
_QUICK_PRUNE = {"method": "ratio", "pruning_ratio": 0.3, "pruning_granularity": 2, "min_num_filters": 2}

CLASSIFICATION_PYT = Network(
    name="classification_pyt",
    family="classification",
    dataset_type="image_classification",
    dataset_formats=("default", "classification_pyt", "classification_tf2", "custom", "raw"),
    specs={
        Action.TRAIN: spec.TrainSpec,
        Action.EVALUATE: spec.EvaluateSpec,
        Action.PRUNE: spec.PruneSpec,
        Action.RETRAIN: spec.TrainSpec,
        Action.EXPORT: shared.ExportSpec,
        Action.CALIBRATION_TENSORFILE: shared.TensorfileSpec,
        Action.GEN_TRT_ENGINE: shared.EngineSpec,
        Action.INFERENCE: spec.InferenceSpec,
    },
    key_metric="accuracy_top-1",
    maximize=True,
    metrics=("accuracy_top-1", "accuracy_top-5", "loss", "precision", "recall", "f1"),
    training_metrics={"accuracy_top-1": True, "accuracy_top-5": True, "loss": False},
    epochs_parameter="train.train_config.runner.max_epochs",
    metric_parameter="train.train_config.evaluation.metric",
    implementation=f"{_ACTIONS}:CLASSIFICATION",
    library="timm.create_model",
    licence="Apache-2.0",
    quick={
        Action.TRAIN: {
            "model": {"backbone": {"type": "test_resnet"}},
            "dataset": {"batch_size": 8, "workers": 0, "augmentation": {"horizontal_flip": 0.0}},
            "train": {"exp_config": {"deterministic": True}},
        },
        Action.PRUNE: {"prune": {"pruning_ratio": 0.3, "granularity": 2, "min_channels": 2}},
    },
)

CLASSIFICATION_TF2 = replace(
    CLASSIFICATION_PYT,
    name="classification_tf2",
    specs={
        Action.TRAIN: spec_tf2.TrainSpec,
        Action.EVALUATE: spec_tf2.EvaluateSpec,
        Action.PRUNE: spec_tf2.PruneSpec,
        Action.RETRAIN: spec_tf2.TrainSpec,
        Action.EXPORT: shared.ExportSpec,
        Action.CALIBRATION_TENSORFILE: shared.TensorfileSpec,
        Action.GEN_TRT_ENGINE: shared.EngineSpec,
        Action.INFERENCE: spec_tf2.InferenceSpec,
    },
    epochs_parameter="train.num_epochs",
    metric_parameter="train.evaluation.metric",
    implementation=f"{_ACTIONS}:CLASSIFICATION_TF2",
    quick={
        Action.TRAIN: {
            "model": {"backbone": "test_resnet"},
            "dataset": {"augmentation": {"enable_random_crop": False, "disable_horizontal_flip": True}},
            "train": _QUICK_LOOP,
        },
        Action.PRUNE: {
            "prune": {"method": "ratio", "pruning_ratio": 0.3, "granularity": 2, "min_num_filters": 2},
        },
    },
)

CLASSIFICATION_TF1 = replace(
    CLASSIFICATION_PYT,
    name="classification",
    aliases=("classification_tf1",),
    specs={
        Action.TRAIN: spec_tf1.TrainSpec,
        Action.EVALUATE: spec_tf1.EvaluateSpec,
        Action.PRUNE: flat.PruneSpec,
        Action.RETRAIN: spec_tf1.TrainSpec,
        Action.EXPORT: flat.ExportSpec,
        Action.CALIBRATION_TENSORFILE: shared.TensorfileSpec,
        Action.GEN_TRT_ENGINE: flat.EngineSpec,
        Action.INFERENCE: flat.InferenceSpec,
    },
    epochs_parameter="train_config.n_epochs",
    metric_parameter="train_config.evaluation.metric",
    implementation=f"{_ACTIONS}:CLASSIFICATION_TF1",
    quick={
        Action.TRAIN: {
            "model_config": {"arch": "test_resnet"},
            "train_config": {**_QUICK_LOOP, "enable_random_crop": False, "disable_horizontal_flip": True},
        },
        Action.PRUNE: _QUICK_PRUNE,
    },
)

MULTITASK_CLASSIFICATION = replace(
    CLASSIFICATION_PYT,
    name="multitask_classification",
    dataset_formats=("custom", "raw"),
    specs={
        Action.TRAIN: spec_multitask.TrainSpec,
        Action.EVALUATE: spec_multitask.EvaluateSpec,
        Action.PRUNE: flat.PruneSpec,
        Action.RETRAIN: spec_multitask.TrainSpec,
        Action.EXPORT: flat.ExportSpec,
        Action.CALIBRATION_TENSORFILE: shared.TensorfileSpec,
        Action.GEN_TRT_ENGINE: flat.EngineSpec,
        Action.INFERENCE: flat.InferenceSpec,
    },
    metrics=("accuracy_top-1", "accuracy_all", "loss", "f1"),
    training_metrics={"accuracy_top-1": True, "loss": False},
    epochs_parameter="training_config.num_epochs",
    metric_parameter="training_config.evaluation.metric",
    implementation=f"{_ACTIONS}:MULTITASK_CLASSIFICATION",
    quick={
        Action.TRAIN: {
            "model_config": {"arch": "test_resnet"},
            "training_config": {
                **_QUICK_LOOP,
                "augmentation": {"enable_random_crop": False, "disable_horizontal_flip": True},
            },
        },
        Action.PRUNE: _QUICK_PRUNE,
    },
)

CLASSIFIERS = (CLASSIFICATION_PYT, CLASSIFICATION_TF2, CLASSIFICATION_TF1, MULTITASK_CLASSIFICATION)

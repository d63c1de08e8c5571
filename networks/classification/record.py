"""What the rest of the project knows about `classification_pyt` without importing torch."""

from __future__ import annotations

from ...schemas.actions import Action
from ..deployment_specs import EngineSpec, ExportSpec
from ..registry import Network
from .spec import EvaluateSpec, InferenceSpec, PruneSpec, TrainSpec

CLASSIFICATION_PYT = Network(
    name="classification_pyt",
    family="classification",
    dataset_type="image_classification",
    dataset_formats=("default", "classification_pyt", "custom", "raw"),
    specs={
        Action.TRAIN: TrainSpec,
        Action.EVALUATE: EvaluateSpec,
        Action.PRUNE: PruneSpec,
        Action.RETRAIN: TrainSpec,
        Action.EXPORT: ExportSpec,
        Action.GEN_TRT_ENGINE: EngineSpec,
        Action.INFERENCE: InferenceSpec,
    },
    key_metric="accuracy_top-1",
    maximize=True,
    metrics=("accuracy_top-1", "accuracy_top-5", "loss", "precision", "recall", "f1"),
    training_metrics={"accuracy_top-1": True, "accuracy_top-5": True, "loss": False},
    epochs_parameter="train.train_config.runner.max_epochs",
    metric_parameter="train.train_config.evaluation.metric",
    implementation="prefect_trainyard.networks.classification.actions:CLASSIFICATION",
    library="timm",
    licence="Apache-2.0",
)

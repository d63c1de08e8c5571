"""The model of a job as MLflow loads it: code and weights, never a pickle.

MLflow runs this file when somebody calls `mlflow.pyfunc.load_model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from prefect_trainyard.networks.registry import get_network, load_implementation


class TrainyardModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined]
    """Takes pixels, float32 from 0 to 255, shape (batch, channels, height, width); gives raw outputs."""

    def load_context(self, context: Any) -> None:
        implementation = load_implementation(get_network(context.model_config["network"]))
        self._predictor = implementation.open_predictor(Path(context.artifacts["model"]))

    # Without annotations: MLflow takes those of `predict` for a data schema of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        return self._predictor.logits(torch.from_numpy(np.asarray(model_input, dtype=np.float32)))


mlflow.models.set_model(TrainyardModel())

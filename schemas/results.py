"""What a job leaves behind: `result.json` in its folder, and what the next job reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from .actions import Action


class ArtifactKind(StrEnum):
    """What a file of a job is for."""

    WEIGHTS = "weights"
    """safetensors file that any later action can start from."""
    CHECKPOINT = "checkpoint"
    """Everything needed to go on training bit for bit."""
    ONNX = "onnx"
    ENGINE = "engine"
    CALIBRATION = "calibration"
    """What an int8 engine is calibrated with."""
    PREDICTIONS = "predictions"
    INDEX = "index"
    DATASET = "dataset"
    """A file of a new data set."""
    FIGURE = "figure"
    REPORT = "report"


class Artifact(BaseModel):
    """One file of a job."""

    model_config = ConfigDict(frozen=True)

    path: str = Field(description="Path below the job's folder, with forward slashes.")
    kind: ArtifactKind
    size_bytes: int | None = Field(default=None, ge=0, description="Set when the job is published.")
    sha256: str | None = Field(default=None, description="Set when the job is published.")
    epoch: int | None = Field(default=None, description="Epoch of a checkpoint or of weights, from 1.")
    title: str = Field(default="", description="What a person would call the file.")

    @classmethod
    def at(cls, path: Path, out: Path, kind: ArtifactKind, title: str, epoch: int | None = None) -> Self:
        """Return the file at `path`, which lies below the job's folder `out`."""
        return cls(path=path.relative_to(out).as_posix(), kind=kind, title=title, epoch=epoch)


def by_metric(per_class: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the metrics of classes as the values that each metric has for the classes."""
    found: dict[str, dict[str, float]] = {}
    for name, metrics in per_class.items():
        for metric, value in metrics.items():
            found.setdefault(metric, {})[name] = value
    return found


class Output(BaseModel):
    """What an action of a network returns. All paths are below the folder it was given.

    `kpi` holds scalar results, `categorical` for each metric its value for each class: see `by_metric`.
    """

    artifacts: list[Artifact] = []
    kpi: dict[str, float] = {}
    categorical: dict[str, dict[str, float]] = {}
    confusion: list[list[int]] | None = Field(default=None, description="Rows: true class; columns: predicted.")
    classes: list[str] = []
    parameter_count: int | None = Field(default=None, description="Trainable and frozen parameters of the model.")
    best_epoch: int | None = None
    latest_epoch: int | None = None
    key_metric: str | None = Field(default=None, description="Name in `kpi` of the number that ranks models.")
    message: str = Field(default="", description="One sentence for the user.")

    def artifact(self, kind: ArtifactKind, epoch: int | None = None) -> Artifact | None:
        """Return the first artifact of `kind` (and of `epoch`, when given), or None."""
        for artifact in self.artifacts:
            if artifact.kind == kind and (epoch is None or artifact.epoch == epoch):
                return artifact
        return None

    @property
    def model(self) -> Artifact | None:
        """The model that the job made: its engine, its ONNX file or its best weights."""
        return (
            self.artifact(ArtifactKind.ENGINE)
            or self.artifact(ArtifactKind.ONNX)
            or self.artifact(ArtifactKind.WEIGHTS, self.best_epoch)
        )


class EpochMetrics(BaseModel):
    """The metrics of one finished epoch."""

    epoch: int
    max_epoch: int
    metrics: dict[str, float]
    seconds: float


class JobResult(Output):
    """The record of a finished job, stored as `result.json` in the job's folder.

    It is all that a child job needs to know about its parent.
    """

    action: Action
    network: str | None = None
    uri: str = Field(description="Folder of the job in the artifact storage.")
    job_id: str | None = Field(default=None, description="Flow run id, when the job was a flow run.")
    parent_uri: str | None = None
    spec: dict[str, object] = {}
    history: list[EpochMetrics] = []
    mlflow_run_id: str | None = None
    dataset_digests: dict[str, str] = Field(default={}, description="Role (train, eval, ...) to data digest.")
    started_at: datetime | None = None
    seconds: float | None = None

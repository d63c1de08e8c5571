"""What the routes answer, for the OpenAPI document. `translate` builds it."""

from __future__ import annotations

from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from ...answers import closed
from ..tao_v5.answers import (
    BestValue,
    Categorical,
    DatasetStatusWord,
    Described,
    DetailedStatus,
    Stat,
    Sweep,
    TarStats,
)


@closed
class Nothing(TypedDict):
    """An empty object."""


@closed
class Curve(TypedDict):
    """`values` are in order of the epochs to keys of release 4.0, by epoch from 5.0 on."""

    metric: str
    values: list[float | None] | dict[str, float | None]
    x_min: int
    x_max: int
    y_min: float | None
    y_max: float | None
    units: str


@closed
class Kpi(TypedDict):
    metric: str
    value: float | None
    values: dict[str, float | None]


@closed
class Result(TypedDict):
    detailed_status: DetailedStatus
    message: str
    epoch: NotRequired[int]
    cur_epoch: NotRequired[int]
    max_epoch: NotRequired[int]
    time_per_epoch: NotRequired[str]
    eta: NotRequired[str]
    graphical: list[Curve]
    kpi: list[Kpi]
    categorical: list[Categorical]
    stats: list[Stat]
    automl_result: NotRequired[list[BestValue]]
    key_metric: NotRequired[float | None]


@closed
class JobOut(TypedDict):
    id: UUID
    parent_id: UUID | None
    created_on: str
    last_modified: str
    action: str
    status: Literal["Pending", "Running", "Done", "Error"]
    result: Result
    specs: dict[str, Any] | None
    job_tar_stats: TarStats


@closed
class DatasetOut(Described):
    logo: str
    type: str
    format: str
    actions: list[str]
    jobs: list[JobOut]
    status: DatasetStatusWord
    pull: NotRequired[str | None]
    message: NotRequired[str]


@closed
class ModelOut(Described, Sweep):
    """`ptm` is an id or nothing to keys of release 4.0, a list from 5.0 on. Only pretrained models lack the key."""

    logo: str
    ngc_path: str
    additional_id_info: str
    encryption_key: NotRequired[str]
    network_arch: str
    ptm: str | list[UUID]
    dataset_type: str
    eval_dataset: UUID | None
    inference_dataset: UUID | None
    calibration_dataset: UUID | None
    train_datasets: list[UUID]
    read_only: bool
    public: bool
    actions: list[str]
    jobs: list[JobOut]
    metric: str
    checkpoint_choose_method: NotRequired[str]
    checkpoint_epoch_number: NotRequired[dict[str, int]]

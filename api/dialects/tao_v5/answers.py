"""What the routes answer, for the OpenAPI document. `translate` builds it."""

from __future__ import annotations

from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from ....schemas.actions import Action
from ....schemas.sweeps import Algorithm, TrialStatus
from ...answers import closed

JobStatus = Literal["Pending", "Running", "Done", "Error", "Canceled", "Canceling", "Pausing", "Paused"]
DatasetStatusWord = Literal["not_present", "present", "starting", "in_progress", "pull_complete", "invalid_pull"]


@closed
class Login(TypedDict):
    user_id: UUID
    token: str


@closed
class Said(TypedDict):
    """Nothing to clients before 5.5."""

    message: NotRequired[str]


@closed
class Freed(TypedDict):
    freed_bytes: int


@closed
class Formats(TypedDict):
    dataset_formats: list[str]


@closed
class DetailedStatus(TypedDict):
    date: str
    time: str
    message: str
    status: Literal["PENDING", "RUNNING", "PAUSED", "SUCCESS", "FAILURE", "CANCELED"]


@closed
class Curve(TypedDict):
    metric: str
    values: dict[str, float | None]
    x_min: int
    x_max: int
    y_min: float | None
    y_max: float | None
    units: str


@closed
class Kpi(TypedDict):
    metric: str
    values: dict[str, float | None]


@closed
class CategoryValue(TypedDict):
    category: str
    value: float | None


@closed
class Categorical(TypedDict):
    metric: str
    category_wise_values: list[CategoryValue]


@closed
class Stat(TypedDict):
    metric: str
    value: str


@closed
class BestValue(TypedDict):
    """What a search has found: `best_` and the name of the metric."""

    metric: str
    value: float | None


@closed
class Result(TypedDict):
    detailed_status: DetailedStatus
    message: str
    epoch: NotRequired[int]
    max_epoch: NotRequired[int]
    time_per_epoch: NotRequired[str]
    eta: NotRequired[str]
    graphical: NotRequired[list[Curve]]
    kpi: NotRequired[list[Kpi]]
    categorical: NotRequired[list[Categorical]]
    stats: NotRequired[list[Stat]]
    automl_result: NotRequired[list[BestValue]]
    key_metric: NotRequired[float | None]


@closed
class TarStats(TypedDict):
    """Nothing as long as there is no tar."""

    file_size: NotRequired[int]
    sha256_digest: NotRequired[str | None]


@closed
class Usage(TypedDict):
    attempts: int
    run_hours: float
    cpu_hours: float
    gpu_hours: float
    cost: float
    currency: str
    storage_bytes: NotRequired[int]


@closed
class Described(TypedDict):
    """What data sets, experiments and workspaces have alike."""

    id: UUID
    created_on: str
    last_modified: str
    name: str
    description: str
    version: str


@closed
class JobOut(TypedDict):
    id: UUID
    parent_id: UUID | None
    action: Action
    created_on: str
    last_modified: str
    status: JobStatus
    result: Result
    specs: dict[str, Any] | None
    job_tar_stats: TarStats
    name: str
    description: str
    num_gpu: NotRequired[int]
    platform: NotRequired[str]
    priority: NotRequired[str]
    max_attempts: NotRequired[int]
    max_run_time: NotRequired[float]
    max_pending_time: NotRequired[float]
    expires_at: NotRequired[str]
    usage: NotRequired[Usage]
    experiment_id: NotRequired[UUID]
    sync: NotRequired[bool]
    dataset_id: NotRequired[UUID | None]


@closed
class AutomlTrial(TypedDict):
    """A trial as `controller.json` has it; `specs` are the varied parameters by dotted name."""

    id: int
    status: TrialStatus
    specs: dict[str, Any]
    result: float | None
    results: dict[str, float | None]
    best: bool
    best_epoch_number: int | None
    epochs: int
    bracket: int | None
    rung: int | None
    seconds: float
    job_id: str | None
    message: str


@closed
class AutomlBracket(TypedDict):
    """Trials that are compared with each other, by how many rungs they have reached."""

    bracket: int
    rungs: dict[str, list[int]]


@closed
class AutomlDetails(TypedDict):
    """A search with all its trials. What it is asked for is known when it has begun."""

    job_id: UUID
    status: JobStatus
    algorithm: Algorithm | None
    metric: str | None
    maximize: bool | None
    best: float | None
    best_trial: int | None
    current_trial: int | None
    epochs_left: int | None
    seconds_per_epoch: float | None
    eta_s: float | None
    trials_by_status: dict[TrialStatus, int]
    trials: list[AutomlTrial]
    brackets: list[AutomlBracket]


@closed
class CloudDetails(TypedDict):
    """Where files lie in a cloud, without what opens it."""

    cloud_type: NotRequired[str]
    cloud_file_type: NotRequired[str]
    cloud_specific_details: NotRequired[dict[str, Any]]


@closed
class DatasetOut(Described):
    logo: str
    type: str
    format: str
    actions: list[str]
    jobs: list[JobOut]
    status: DatasetStatusWord
    message: NotRequired[str]
    pull: str
    client_url: str
    cloud_details: CloudDetails
    cloud_file_path: str
    workspace: UUID | None
    use_for: list[str]
    docker_env_vars: dict[str, str]


@closed
class Sweep(TypedDict, total=False):
    """Settings of a search; the document knows those of its own clients."""

    automl_enabled: bool
    automl_algorithm: str
    automl_max_recommendations: int
    automl_delete_intermediate_ckpt: bool
    automl_R: int
    automl_nu: int
    automl_add_hyperparameters: str
    automl_remove_hyperparameters: str
    epoch_multiplier: int
    override_automl_disabled_params: bool
    automl_max_concurrent: int
    automl_max_cost: float
    automl_max_seconds: float
    automl_metrics: list[str]
    automl_patience: int
    automl_ranges: dict[str, dict[str, Any]]
    automl_seed: int
    automl_start_from_spec: bool
    automl_warm_start: list[UUID]


@closed
class ExperimentOut(Described, Sweep):
    """`automl_*` beside `automl_settings` only to clients that come by /users."""

    logo: str
    type: str
    network_arch: str
    encryption_key: NotRequired[str]
    ngc_path: str
    additional_id_info: str
    bundle_url: str
    dataset_type: str
    dataset_formats: list[str]
    actions: list[Action]
    license: str
    public: bool
    read_only: bool
    is_ptm_backbone: bool
    train_datasets: list[UUID]
    eval_dataset: UUID | None
    inference_dataset: UUID | None
    calibration_dataset: UUID | None
    base_experiment: list[UUID]
    base_experiment_pull_complete: str
    checkpoint_choose_method: str
    checkpoint_epoch_number: dict[str, int]
    metric: str
    automl_settings: Sweep
    model_params: dict[str, Any]
    sha256_digest: dict[str, Any]
    realtime_infer: bool
    realtime_infer_request_timeout: int
    realtime_infer_support: bool
    spec_file_present: bool
    cloud_details: CloudDetails
    workspace: UUID | None
    docker_env_vars: dict[str, str]
    backbone_class: str
    backbone_type: str
    domain: str
    task: str
    jobs: list[JobOut]


@closed
class WorkspaceOut(Described):
    cloud_type: str
    cloud_specific_details: dict[str, Any]


@closed
class PaginationInfo(TypedDict):
    total_records: int
    total_pages: int
    page_size: int
    page_index: int


@closed
class Jobs(TypedDict):
    """A list for clients from 5.5 on; those before get the array itself."""

    jobs: list[JobOut]
    pagination_info: PaginationInfo


@closed
class Datasets(TypedDict):
    datasets: list[DatasetOut]
    pagination_info: PaginationInfo


@closed
class Experiments(TypedDict):
    experiments: list[ExperimentOut]
    pagination_info: PaginationInfo


@closed
class Workspaces(TypedDict):
    workspaces: list[WorkspaceOut]
    pagination_info: PaginationInfo


@closed
class UsageLine(Usage):
    experiment_id: NotRequired[UUID]
    dataset_id: NotRequired[UUID]
    name: str
    jobs: int


UsageReport = TypedDict(
    "UsageReport",
    {
        "from": "str | None",
        "to": "str | None",
        "jobs": int,
        "attempts": int,
        "run_hours": float,
        "cpu_hours": float,
        "gpu_hours": float,
        "cost": float,
        "currency": str,
        "storage_bytes": int,
        "lines": list[UsageLine],
    },
)

"""Request bodies of the document, with the bounds that it prints. What it does not know is ignored."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    model_validator,
)

from ....schemas.sweeps import Algorithm, Range

INT_MAX = 2**63 - 1


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("control characters and line breaks are not allowed")
    return text


def _printable(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" and character not in "\n\r\t" for character in text):
        raise ValueError("control characters are not allowed")
    return text


def _telemetry_only(variables: dict[str, str]) -> dict[str, str]:
    if foreign := [name for name in variables if not re.fullmatch("(WANDB|CLEARML)_[A-Z0-9_]{1,90}", name)]:
        raise ValueError(f"only WANDB_ and CLEARML_ variables are allowed, not {foreign[0][:100]!r}")
    if len(variables) > 100 or any("\0" in value or len(value) > 5000 for value in variables.values()):
        raise ValueError("up to 100 variables of up to 5000 characters are allowed")
    return variables


def _moment(value: object) -> datetime:
    """Return a moment of the future from seconds since 1970 or from ISO 8601."""
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            raise ValueError("it is neither a number nor text")
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError("it is neither seconds since 1970 nor an ISO 8601 time") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        moment = moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("it is out of bounds") from error
    if moment <= datetime.now(UTC):
        raise ValueError("it is in the past")
    return moment


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Line36 = Annotated[str, StringConstraints(max_length=36), AfterValidator(_one_line)]
Line100 = Annotated[str, StringConstraints(max_length=100), AfterValidator(_one_line)]
Line250 = Annotated[str, StringConstraints(max_length=250), AfterValidator(_one_line)]
Line500 = Annotated[str, StringConstraints(max_length=500), AfterValidator(_one_line)]
Line1000 = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_one_line)]
Line1024 = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_one_line)]
Line2048 = Annotated[str, StringConstraints(max_length=2048), AfterValidator(_one_line)]
Text1000 = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
Text5000 = Annotated[str, StringConstraints(max_length=5000), AfterValidator(_printable)]
Variables = Annotated[dict[str, str], AfterValidator(_telemetry_only)]
Names = Text5000 | Annotated[list[Line250], Field(max_length=100)]
Count = Annotated[int, Field(ge=0, le=INT_MAX)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]
Moment = Annotated[datetime, PlainValidator(_moment, json_schema_input_type=float | str)]

ActionWord = Literal[
    "dataset_convert",
    "convert",
    "convert_efficientdet_tf2",
    "train",
    "evaluate",
    "prune",
    "retrain",
    "export",
    "gen_trt_engine",
    "trtexec",
    "inference",
    "batchinfer",
    "augment",
    "annotation_format_convert",
    "analyze",
    "validate",
    "generate",
    "calibration_tensorfile",
    "annotation",
    "nextimage",
    "cacheimage",
    "notify",
    "auto3dseg",
    # beyond the document, as releases 4.0 to 5.2 have them
    "convert_and_index",
    "convert_efficientdet_tf1",
    "kmeans",
]
DatasetFormat = Literal[
    "kitti",
    "pascal_voc",
    "raw",
    "coco_raw",
    "unet",
    "coco",
    "lprnet",
    "train",
    "test",
    "default",
    "custom",
    "classification_pyt",
    "classification_tf2",
    "visual_changenet_segment",
    "visual_changenet_classify",
    "monai",
]
DatasetType = Literal[
    "object_detection",
    "semantic_segmentation",
    "image_classification",
    "instance_segmentation",
    "character_recognition",
    "action_recognition",
    "pointpillars",
    "pose_classification",
    "ml_recog",
    "ocdnet",
    "ocrnet",
    "optical_inspection",
    "re_identification",
    "visual_changenet",
    "centerpose",
    "not_restricted",
    "user_custom",
]
NetworkArch = Literal[
    "detectnet_v2",
    "unet",
    "classification_tf2",
    "efficientdet_tf2",
    "action_recognition",
    "classification_pyt",
    "mal",
    "ml_recog",
    "ocdnet",
    "ocrnet",
    "optical_inspection",
    "pointpillars",
    "pose_classification",
    "re_identification",
    "deformable_detr",
    "dino",
    "segformer",
    "visual_changenet",
    "centerpose",
    "auto_label",
    "image",
    "monai_vista3d",
    "monai_vista2d",
    "monai_segmentation",
    "monai_annotation",
    "monai_classification",
    "monai_detection",
    "monai_automl",
    "monai_custom",
    "monai_genai",
    # of the v4 document
    "classification",
    "classification_tf1",
    "multitask_classification",
    "faster_rcnn",
    "yolo_v3",
    "yolo_v4",
    "yolo_v4_tiny",
    "ssd",
    "dssd",
    "retinanet",
    "efficientdet",
    "mask_rcnn",
]
CloudType = Literal["aws", "azure", "gcp", "huggingface", "self_hosted"]
FileType = Literal["file", "folder"]
PullStatus = Literal["starting", "in_progress", "pull_complete", "invalid_pull"]
ExperimentType = Literal["vision", "medical"]
CheckpointMethod = Literal["latest_model", "best_model", "from_epoch_number"]
Platform = Literal["t4", "l4", "l40", "a10", "a30", "a40", "a100", "v100"]
SortAll = Literal["date-descending", "date-ascending", "name-descending", "name-ascending"]
SortJobs = Literal["date-descending", "date-ascending"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=())


class LoginIn(_Body):
    ngc_api_key: str = Field(min_length=1, max_length=1000)


CloudDetail = Annotated[dict[str, Any], Field(max_length=100)]


class CloudDetails(_Body):
    cloud_file_path: Line1024 | None = None
    cloud_file_type: FileType | None = None
    cloud_specific_details: CloudDetail | None = Field(
        default=None, description="Bucket, region, keys; the keys are write-only."
    )
    cloud_type: CloudType | None = None


class WorkspaceIn(_Body):
    """Body of workspace POST, PUT and PATCH."""

    cloud_specific_details: CloudDetail | None = Field(
        default=None, description="Bucket, region, keys; the keys are write-only."
    )
    cloud_type: CloudType | None = None
    description: Text1000 | None = None
    name: Line500 | None = None
    user_id: Line36 | None = None
    version: Line500 | None = None


class DatasetIn(_Body):
    """Body of dataset POST, PUT and PATCH.

    Data are fetched from the archive at `pull` or `client_url`, from `cloud_details`, or from `cloud_file_path` of a
    `workspace`; without any of them they are uploaded.
    """

    client_id: Line2048 | None = None
    client_secret: Line2048 | None = None
    client_url: Line2048 | None = None
    cloud_details: CloudDetails | None = None
    cloud_file_path: Line1024 | None = None
    description: Text1000 | None = None
    docker_env_vars: Variables | None = None
    filters: Line2048 | None = None
    format: DatasetFormat | None = None
    logo: Line2048 | None = None
    name: Line500 | None = None
    pull: Line2048 | None = None
    status: Literal[PullStatus, "not_present", "present"] | None = None
    type: DatasetType | None = None
    use_for: list[Line100] | None = Field(default=None, max_length=10)
    user_id: Line36 | None = None
    version: Annotated[str, StringConstraints(max_length=10), AfterValidator(_one_line)] | None = None
    workspace: UUID | None = None


class OwnAutomlSettings(_Body):
    """Settings of a search that go beyond the document; null takes one away."""

    automl_max_concurrent: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="Trials at once; as many as the workers take without it."
    )
    automl_max_cost: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Start no trials when those before cost so much."
    )
    automl_max_seconds: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Start no trials after so much time."
    )
    automl_metrics: list[Line100] | None = Field(
        default=None, max_length=3, description="Instead of metric; several for nsga2."
    )
    automl_patience: Count | None = Field(
        default=None, description="End after so many trials without a better one; 0: never."
    )
    automl_ranges: dict[Line250, Range] | None = Field(
        default=None, max_length=100, description="By parameter: where to look, instead of its own bounds."
    )
    automl_seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    automl_start_from_spec: bool | None = Field(default=None, description="The first trial is the spec as it is.")
    automl_warm_start: list[UUID] | None = Field(
        default=None, max_length=100, description="Jobs whose trials this search learns from."
    )


class AutomlSettings(OwnAutomlSettings):
    """Settings of the search that a train job becomes."""

    automl_R: Count | None = None
    automl_add_hyperparameters: Names | None = Field(default=None, description="A Python list as text, or a list.")
    automl_algorithm: Annotated[Algorithm, BeforeValidator(_lower)] | None = None
    automl_delete_intermediate_ckpt: bool | None = None
    automl_enabled: bool | None = None
    automl_max_recommendations: Count | None = None
    automl_nu: Count | None = None
    automl_remove_hyperparameters: Names | None = Field(default=None, description="A Python list as text, or a list.")
    epoch_multiplier: Count | None = None
    override_automl_disabled_params: bool | None = None


class ExperimentIn(AutomlSettings):
    """Body of experiment POST, PUT and PATCH; clients of 5.3 write the sweep settings at the top."""

    additional_id_info: Line100 | None = None
    automl_settings: AutomlSettings | None = None
    base_experiment: list[UUID] | None = Field(default=None, max_length=2)
    base_experiment_pull_complete: PullStatus | None = None
    bundle_url: Line1000 | None = None
    calibration_dataset: UUID | None = None
    checkpoint_choose_method: CheckpointMethod | None = None
    checkpoint_epoch_number: dict[Line100, Count] | None = Field(default=None, max_length=1000)
    cloud_details: CloudDetails | None = None
    description: Text1000 | None = None
    docker_env_vars: Variables | None = None
    encryption_key: Line100 | None = None
    eval_dataset: UUID | None = None
    inference_dataset: UUID | None = None
    is_ptm_backbone: bool | None = None
    logo: Line2048 | None = None
    metric: Line100 | None = None
    model_params: dict[str, Any] | None = None
    name: Line500 | None = None
    network_arch: NetworkArch | None = None
    ngc_path: Line250 | None = None
    public: bool | None = None
    read_only: bool | None = None
    realtime_infer: bool | None = None
    realtime_infer_request_timeout: Annotated[int, Field(ge=0, le=86_400)] | None = None
    sha256_digest: dict[str, Any] | None = None
    spec_file_present: bool | None = None
    train_datasets: list[UUID] | None = Field(default=None, max_length=100)
    type: ExperimentType | None = None
    user_id: Line36 | None = None
    version: Line500 | None = None
    workspace: UUID | None = None


class JobIn(_Body):
    """Body of job POST. `actions`, `priority` and the limits go beyond the document."""

    action: ActionWord | None = None
    actions: list[ActionWord] | None = Field(
        default=None,
        min_length=1,
        max_length=20,
        description="Instead of action: one job each, all or none; specs are then by action.",
    )
    description: Text1000 | None = None
    expires_at: Moment | None = Field(default=None, description="Seconds since 1970 or ISO 8601; UTC without a zone.")
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    max_pending_time: Seconds | None = Field(default=None, description="Seconds in the queue.")
    max_run_time: Seconds | None = Field(default=None, description="Seconds with workers, all attempts together.")
    name: Line500 | None = None
    num_gpu: Count | None = None
    parent_job_id: UUID | None = None
    platform: Platform | None = None
    priority: Literal["high", "normal", "low"] | None = None
    specs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_or_several(self) -> JobIn:
        if (self.action is None) == (self.actions is None):
            raise ValueError("exactly one of action and actions is required")
        if self.actions is not None:
            for action, spec in (self.specs or {}).items():
                if action not in self.actions:
                    raise ValueError(f"specs: {action[:100]!r} is none of the actions")
                if not isinstance(spec, dict):
                    raise ValueError(f"specs.{action}: it is no object")
        return self


class ResumeIn(_Body):
    parent_job_id: UUID | None = None
    specs: dict[str, Any] | None = None


class PublishIn(_Body):
    """Clients of 5.5 send the first three; the document prints the body of a job."""

    display_name: Line500 | None = Field(default=None, description="The name of the experiment by default.")
    description: Text1000 | None = None
    team_name: Line100 | None = None
    action: ActionWord | None = None
    name: Line500 | None = Field(default=None, description="As display_name.")
    num_gpu: Count | None = None
    parent_job_id: UUID | None = None
    platform: Platform | None = None
    specs: dict[str, Any] | None = None


class StatusIn(_Body):
    status: str | None = Field(default=None, max_length=100_000, description="One JSON object as text.")
    experiment_number: str | None = Field(default=None, max_length=36)


class LogIn(_Body):
    log_contents: str | None = Field(default=None, max_length=1_000_000)
    experiment_number: str | None = Field(default=None, max_length=36)

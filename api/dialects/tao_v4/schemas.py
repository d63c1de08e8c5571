"""Request bodies of the document and of clients up to 5.2. What it does not know is ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from ..tao_v5.schemas import (
    AutomlSettings,
    CheckpointMethod,
    Count,
    Line100,
    Line250,
    Line500,
    Line2048,
    Text1000,
)

DatasetType = Literal[
    "object_detection",
    "semantic_segmentation",
    "image_classification",
    "instance_segmentation",
    "character_recognition",
    "speech",
    "mel_spectrogram",
    # from 5.0 on
    "action_recognition",
    "bpnet",
    "centerpose",
    "fpenet",
    "ml_recog",
    "ocdnet",
    "ocrnet",
    "optical_inspection",
    "pointpillars",
    "pose_classification",
    "re_identification",
    "visual_changenet",
]
DatasetFormat = Literal[
    "kitti",
    "pascal_voc",
    "raw",
    "coco_raw",
    "unet",
    "coco",
    "lprnet",
    "ljspeech",
    "hifigan",
    "default",
    "custom",
    "auxillary",
    # from 5.0 on
    "classification_pyt",
    "visual_changenet_segment",
    "visual_changenet_classify",
]
NetworkArch = Literal[
    "detectnet_v2",
    "faster_rcnn",
    "yolo_v4",
    "yolo_v4_tiny",
    "yolo_v3",
    "ssd",
    "dssd",
    "retinanet",
    "unet",
    "lprnet",
    "classification",
    "efficientdet",
    "mask_rcnn",
    "multitask_classification",
    "spectro_gen",
    "vocoder",
    # from 5.0 on
    "action_recognition",
    "analytics",
    "annotations",
    "augmentation",
    "auto_label",
    "bpnet",
    "centerpose",
    "classification_pyt",
    "classification_tf1",
    "classification_tf2",
    "deformable_detr",
    "dino",
    "efficientdet_tf1",
    "efficientdet_tf2",
    "fpenet",
    "mal",
    "ml_recog",
    "ocdnet",
    "ocrnet",
    "optical_inspection",
    "pointpillars",
    "pose_classification",
    "re_identification",
    "segformer",
    "visual_changenet",
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=())


class DatasetIn(_Body):
    """Body of dataset POST, PUT and PATCH. `pull` came with release 5.2."""

    description: Text1000 | None = None
    format: DatasetFormat | None = None
    logo: Line2048 | None = None
    name: Line500 | None = None
    pull: Line2048 | None = None
    type: DatasetType | None = None
    version: Annotated[Line100, StringConstraints(max_length=10)] | None = None


class ModelIn(AutomlSettings):
    """Body of model POST, PUT and PATCH; the sweep settings stand at the top."""

    additional_id_info: Line100 | None = None
    calibration_dataset: UUID | None = None
    checkpoint_choose_method: CheckpointMethod | None = None
    checkpoint_epoch_number: dict[Line100, Count] | None = Field(default=None, max_length=1000)
    description: Text1000 | None = None
    encryption_key: Line100 | None = None
    eval_dataset: UUID | None = None
    inference_dataset: UUID | None = None
    logo: Line2048 | None = None
    metric: Line100 | None = None
    name: Line500 | None = None
    network_arch: NetworkArch | None = None
    ngc_path: Line250 | None = None
    ptm: Annotated[list[UUID], Field(max_length=2)] | UUID | Literal[""] | None = Field(
        default=None, description="One id; a list from release 5.0 on."
    )
    public: bool | None = None
    read_only: bool | None = None
    train_datasets: list[UUID] | None = Field(default=None, max_length=100)
    version: Line500 | None = None


class SpecIn(RootModel[dict[str, Any]]):
    """A spec: an object, whose parts the schema of the action describes."""


class ActionsIn(_Body):
    """Actions that start one after the other, the first from `job`."""

    actions: list[Line100] = Field(min_length=1, max_length=20)
    job: UUID | None = None
    parent_id: UUID | None = Field(default=None, description="Whose job `job` is; found without it.")
    parent_job_type: Literal["dataset", "model"] | None = Field(default=None, description="Found without it.")


class JobsIn(RootModel[list[ActionsIn] | ActionsIn]):
    """Body of job POST: an array in the document, an object in its clients."""

    root: Annotated[list[ActionsIn], Field(min_length=1, max_length=20)] | ActionsIn

    @property
    def parts(self) -> list[ActionsIn]:
        return self.root if isinstance(self.root, list) else [self.root]

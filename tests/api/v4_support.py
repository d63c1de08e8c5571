"""A user of the v4 dialect, and the models that its document prints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx
from facade_support import Facade, Member, image_tar
from support import poll

NETWORK = "classification"


@dataclass(frozen=True)
class V4:
    """A user of `/api/v1/user/{user_id}/`; bodies go without a content type, as all TAO clients send them."""

    member: Member
    client: httpx.Client = field(repr=False)

    @classmethod
    def of(cls, member: Member) -> V4:
        base = f"{member.facade.url}/api/v1/user/{member.user_id}/"
        return cls(member, httpx.Client(base_url=base, headers=member.client.headers, timeout=60))

    @property
    def facade(self) -> Facade:
        return self.member.facade

    def send(self, method: str, path: str, body: object = None) -> httpx.Response:
        return self.client.request(method, path, content=json.dumps(body) if body is not None else None)

    def ok(self, method: str, path: str, body: object = None, status: int = 200) -> Any:
        answer = self.send(method, path, body)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        return answer.json()

    def upload(self, dataset_id: str, archive: bytes) -> httpx.Response:
        return self.client.post(f"dataset/{dataset_id}/upload", files={"file": ("set.tar.gz", archive)})

    def dataset(self, format: str = "default") -> str:
        made = self.ok("POST", "dataset", {"type": "image_classification", "format": format}, 201)
        return str(made["id"])

    def filled(self) -> str:
        dataset_id = self.dataset()
        assert self.upload(dataset_id, image_tar(["cat", "dog"])).status_code == 201
        return dataset_id

    def model(self, **fields: Any) -> str:
        body = {"network_arch": NETWORK, "encryption_key": "nvidia_tlt", **fields}
        return str(self.ok("POST", "model", body, 201)["id"])

    def ready(self) -> str:
        dataset_id = self.filled()
        return self.model(train_datasets=[dataset_id], eval_dataset=dataset_id)

    def start(self, owner: str, *actions: str, parent: str | None = None) -> list[str]:
        jobs: list[str] = self.ok("POST", f"{owner}/job", {"job": parent, "actions": list(actions)}, 201)
        return jobs

    def wait(self, owner: str, job_id: str, status: str) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            job: dict[str, Any] = self.ok("GET", f"{owner}/job/{job_id}")
            return job if job["status"] == status else None

        return poll(read, f"{job_id} to be {status}", 30)


# The models that the document prints; a tuple of words is an enum.
TYPES = (
    *("object_detection", "semantic_segmentation", "image_classification", "instance_segmentation"),
    *("character_recognition", "speech", "mel_spectrogram"),
)
FORMATS = (
    *("kitti", "pascal_voc", "raw", "coco_raw", "unet", "coco", "lprnet", "ljspeech", "hifigan"),
    *("default", "custom", "auxillary"),
)
NETWORKS = (
    *("detectnet_v2", "faster_rcnn", "yolo_v4", "yolo_v4_tiny", "yolo_v3", "ssd", "dssd", "retinanet", "unet"),
    *("lprnet", "classification", "efficientdet", "mask_rcnn", "multitask_classification", "spectro_gen", "vocoder"),
)
NUMBER = (int, float)


@dataclass(frozen=True)
class Maybe:
    """A member that may be null or missing."""

    model: Any


ERROR = {"error_desc": str, "error_code": int}
RESULT = {
    "detailed_status": {"date": str, "time": str, "message": str, "status": str},
    "graphical": [
        {
            "metric": str,
            "x_min": int,
            "x_max": int,
            "y_min": NUMBER,
            "y_max": NUMBER,
            "values": [Maybe(NUMBER)],
            "units": str,
        }
    ],
    "categorical": [{"metric": str, "category_wise_values": [{"category": str, "value": NUMBER}]}],
    "kpi": [{"metric": str, "value": NUMBER}],
    "stats": [{"metric": str, "value": str}],
    "epoch": Maybe(int),
    "cur_epoch": Maybe(NUMBER),
    "max_epoch": Maybe(int),
    "time_per_epoch": Maybe(str),
    "eta": Maybe(str),
}
JOB = {
    "id": str,
    "parent_id": Maybe(str),
    "created_on": str,
    "last_modified": str,
    "action": str,
    "status": ("Done", "Running", "Error", "Pending"),
    "result": RESULT,
}
DATASET = {
    **dict.fromkeys(("id", "created_on", "last_modified", "name", "description", "version", "logo"), str),
    "type": TYPES,
    "format": FORMATS,
    "actions": [str],
    "jobs": [JOB],
}
MODEL = {
    **dict.fromkeys(("id", "created_on", "last_modified", "name", "description", "version", "logo"), str),
    **dict.fromkeys(("ngc_path", "additional_id_info", "encryption_key", "ptm"), str),
    "network_arch": NETWORKS,
    "dataset_type": TYPES,
    "eval_dataset": Maybe(str),
    "inference_dataset": Maybe(str),
    "calibration_dataset": Maybe(str),
    "train_datasets": [str],
    "read_only": bool,
    "public": bool,
    "actions": [str],
    "jobs": [JOB],
    "automl_enabled": bool,
    "automl_algorithm": str,
    "automl_max_recommendations": int,
    "automl_delete_intermediate_ckpt": bool,
    "automl_R": int,
    "automl_nu": int,
    "metric": str,
    "epoch_multiplier": int,
    "automl_add_hyperparameters": str,
    "automl_remove_hyperparameters": str,
}
OBJECT: dict[str, Any] = {}


def assert_fits(value: Any, model: Any, where: str = "answer") -> None:
    if isinstance(model, Maybe):
        if value is not None:
            assert_fits(value, model.model, where)
    elif isinstance(model, dict):
        assert isinstance(value, dict), where
        for name, part in model.items():
            assert name in value or isinstance(part, Maybe), f"{where}.{name} is missing"
            assert_fits(value.get(name), part, f"{where}.{name}")
    elif isinstance(model, list):
        assert isinstance(value, list), where
        for place, item in enumerate(value):
            assert_fits(item, model[0], f"{where}[{place}]")
    elif isinstance(model, tuple) and isinstance(model[0], str):
        assert value in model, f"{where}: {value!r}"
    else:
        assert isinstance(value, model), f"{where}: {value!r}"
        assert not isinstance(value, bool) or model is bool, f"{where}: {value!r}"

"""Data sets with boxes over REST: what may be made and sent, and what can be done with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from facade_support import Member, image_png, make_tar
from support import poll
from v4_support import V4

LINE = b"car 0 0 0 1 1 7 7 0 0 0 0 0 0 0\n"
CONVERSIONS = ["convert", "convert_and_index", "convert_efficientdet_tf1", "convert_efficientdet_tf2"]
SERVICES = ["annotation_format_convert", "augment", "analyze", "validate", "kmeans"]
KITTI = {"images/a.png": image_png(), "labels/a.txt": LINE}


def made(ann: Member, type: str, format: str) -> dict[str, Any]:
    answer = ann.client.post("datasets", content=json.dumps({"type": type, "format": format}))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def detection(ann: Member, format: str = "kitti") -> str:
    return str(made(ann, "object_detection", format)["id"])


@pytest.mark.parametrize("format", ["kitti", "coco", "pascal_voc", "coco_raw", "raw"])
def test_sets_offer_what_their_format_can_do(ann: Member, format: str) -> None:
    offered = made(ann, "object_detection", format)["actions"]
    assert offered == ([] if format.endswith("raw") else [*CONVERSIONS, *SERVICES, "dataset_convert"])


def test_instances_are_in_coco(ann: Member) -> None:
    offered = made(ann, "instance_segmentation", "coco")["actions"]
    assert offered == [*CONVERSIONS, "augment", "analyze", "validate", "dataset_convert"]
    assert made(ann, "instance_segmentation", "raw")["actions"] == []
    for type, format in (("instance_segmentation", "kitti"), ("object_detection", "unet")):
        answer = ann.client.post("datasets", content=json.dumps({"type": type, "format": format}))
        assert answer.status_code == 400 and f"{format!r} is no format of {type}" in answer.text
    formats = ann.client.get(
        f"{ann.client.base_url}datasets:get_formats", params={"dataset_type": "object_detection"}
    ).json()
    assert formats == {"dataset_formats": ["kitti", "coco", "pascal_voc", "coco_raw", "raw"]}


def test_schemas_have_the_keys_that_notebooks_write(ann: Member) -> None:
    owner = f"datasets/{detection(ann)}"

    def default(action: str) -> dict[str, Any]:
        answer = ann.client.get(f"{owner}/specs/{action}/schema")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["default"])

    for action in [*CONVERSIONS, "dataset_convert"]:
        found = default(action)
        assert found["kitti_config"]["image_extension"] == ".jpg" and found["target_class_mapping"] == []
        assert found["dataset_convert"] == {"num_shards": 256, "tag": ""}
    assert set(default("annotation_format_convert")["data"]) == {"input_format", "output_format"}
    for action in SERVICES:
        assert ann.post_job(owner, action, specs=default(action)).status_code == 400  # it has no files yet
    unknown = ann.client.get(f"{owner}/specs/train/schema")
    assert unknown.status_code == 404 and unknown.json()["error_desc"].startswith("Action not found")
    elsewhere = ann.client.get("specs/kmeans/schema", params={"dataset_type": "object_detection"})
    assert elsewhere.status_code == 200 and elsewhere.json()["default"] == default("kmeans")


def test_jobs_of_sets(ann: Member) -> None:
    dataset = detection(ann)
    assert ann.upload(dataset, make_tar(KITTI)).status_code == 201
    owner = f"datasets/{dataset}"
    spec = {"target_class_mapping": [{"key": "car", "value": "vehicle"}], "gpus": 1}
    job = ann.start(owner, "convert_and_index", specs=spec)
    run = ann.facade.prefect.run(job)
    assert run["parameters"]["spec"] == {"target_class_mapping": spec["target_class_mapping"]}
    assert ann.job(owner, job)["action"] == "convert_and_index"
    after = ann.start(owner, "analyze", parent_job_id=job)
    assert ann.facade.prefect.run(after)["state"]["name"] == "AwaitingParent"
    by_hand = ann.facade.prefect.start_by_hand("kmeans/object_detection", {"org": ann.org, "dataset_id": dataset})
    poll(lambda: ann.client.get(f"{owner}/jobs/{by_hand}").status_code == 200, "the adoption", 30)
    assert ann.job(owner, by_hand)["action"] == "kmeans"
    for action, specs, words in (
        ("kmeans", {"num_clusters": 0}, "num_clusters"),
        ("convert", {"target_class_mapping": [{"key": "car"}]}, "target_class_mapping.0.value"),
        ("convert", {"augmentation": {}}, "Unknown section 'augmentation'"),
        ("annotation_format_convert", {"data": {"output_format": "YOLO"}}, "data.output_format"),
        ("augment", {"copies": 1000}, "copies"),
        ("train", {}, "A data set of object_detection in the format kitti has no action 'train'"),
    ):
        answer = ann.post_job(owner, action, specs=specs)
        assert answer.status_code == 400 and words in answer.text, answer.text


def test_pictures_alone_have_no_jobs(ann: Member) -> None:
    dataset = detection(ann, "raw")
    assert ann.upload(dataset, make_tar({"a.png": image_png()})).status_code == 201
    answer = ann.post_job(f"datasets/{dataset}", "convert")
    assert answer.status_code == 400 and "in the format raw has no action 'convert'" in answer.text


def test_broken_pieces_leave_nothing(ann: Member) -> None:
    dataset = detection(ann)
    for files, words in (
        (
            KITTI | {"labels/a.txt": LINE + b"car 0 0 0 1 1 x 7 0 0 0 0 0 0 0\n"},
            "labels/a.txt, line 2: column 7 is 'x'",
        ),
        ({"labels/a.txt": b"car 0 0\n"}, "labels/a.txt, line 1: there are 3 columns"),
        (KITTI | {"images/a.png": image_png()[:40]}, "images/a.png"),
        ({"images/a.png": image_png(), "annotations.json": b"{}"}, "no place in a data set of the format kitti"),
        ({"pictures/a.png": image_png()}, "no folder `label_2` or `labels`"),
    ):
        answer = ann.upload(dataset, make_tar(files))
        assert answer.status_code == 400 and words in answer.text, answer.text
        assert ann.facade.files_of(f"{ann.org}/datasets") == []
    assert ann.upload(dataset, make_tar({"x/labels/a.txt": LINE})).status_code == 201
    assert ann.upload(dataset, make_tar({"y/z/images/a.png": image_png()})).status_code == 201
    assert ann.facade.files_of(f"{ann.org}/datasets/{dataset}/raw") == ["images/a.png", "labels/a.txt"]
    manifest = ann.facade.storage.read_json(f"{ann.org}/datasets/{dataset}/raw.json")
    assert manifest["classes"] == {"car": 1}


def test_release_4_saves_specs_first(facade) -> None:
    ann = facade.member()
    base = str(ann.client.base_url).replace("/users/", "/user/")
    ann.client.base_url = base
    dataset = ann.client.post("dataset", content=json.dumps({"type": "object_detection", "format": "kitti"})).json()
    owner = f"dataset/{dataset['id']}"
    assert "convert_and_index" in dataset["actions"]
    spec = ann.client.get(f"{owner}/specs/convert_and_index/schema").json()["default"]
    spec["kitti_config"]["image_extension"] = ".png"
    spec["target_class_mapping"] = [{"key": "car", "value": "vehicle"}]
    assert ann.client.post(f"{owner}/specs/convert_and_index", content=json.dumps(spec)).status_code == 201
    refused = ann.client.post(f"{owner}/specs/kmeans", content=json.dumps({"num_clusters": "nine"}))
    assert refused.status_code == 400 and "num_clusters" in refused.text
    sent = ann.client.post(f"{owner}/upload", files={"file": ("a.tar.gz", make_tar(KITTI))})
    assert sent.status_code == 201, sent.text
    answer = ann.client.post(f"{owner}/job", content=json.dumps({"job": None, "actions": ["convert_and_index"]}))
    assert answer.status_code == 201, answer.text
    run = facade.prefect.run(answer.json()[0])
    assert run["parameters"]["spec"]["target_class_mapping"] == spec["target_class_mapping"]


def coco(segmentation: list[list[float]] | None) -> dict[str, bytes]:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 6, 6], "area": 36, "iscrowd": 0}
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [box if segmentation is None else {**box, "segmentation": segmentation}],
    }
    return {"images/a.png": image_png(), "annotations.json": json.dumps(annotations).encode()}


MASK = [[1.0, 1.0, 7.0, 1.0, 7.0, 7.0, 1.0, 7.0]]


def test_objects_with_masks_are_learned_from_sets_that_have_them(ann: Member) -> None:
    dataset = str(made(ann, "instance_segmentation", "coco")["id"])
    refused = ann.upload(dataset, make_tar(coco(None)))
    assert refused.status_code == 400 and "it has no segmentation" in refused.text
    assert ann.upload(dataset, make_tar(coco(MASK))).status_code == 201

    body = {"network_arch": "mask_rcnn", "encryption_key": "k"}
    wrong = ann.client.post("experiments", json={**body, "train_datasets": [detection(ann, "coco")]})
    assert wrong.status_code == 400 and "mask_rcnn" in wrong.text
    experiment = ann.client.post("experiments", json={**body, "train_datasets": [dataset]}).json()
    owner = f"experiments/{experiment['id']}"
    assert experiment["dataset_type"] == "instance_segmentation"
    found = ann.client.get(f"{owner}/specs/train/schema").json()["default"]
    found |= {"num_epochs": 5, "num_examples_per_epoch": 5000, "learning_rate_steps": "[5000, 7500]", "gpus": 1}
    converted = ann.start(f"datasets/{dataset}", "convert", specs={"dataset_convert": {"tag": "train"}})
    job = ann.start(owner, "train", specs=found, parent_job_id=converted)
    assert ann.facade.prefect.run(job)["parameters"]["spec"]["learning_rate_steps"] == [5000, 7500]
    refused = ann.post_job(owner, "train", specs={**found, "learning_rate_steps": "[2, 1]"})
    assert refused.status_code == 400 and "learning_rate_steps rise" in refused.text


def test_release_4_trains_objects_with_masks(facade) -> None:
    old = V4.of(facade.member(release="4.0"))
    model_id = old.model(network_arch="mask_rcnn")
    schema = old.ok("GET", f"model/{model_id}/specs/train/schema")["default"]
    assert schema["num_epochs"] == 10 and schema["learning_rate_steps"] == []
    saved = {**schema, "num_epochs": 5, "learning_rate_steps": "[5000, 7500, 10000]"}
    assert old.ok("POST", f"model/{model_id}/specs/train", saved, 201)["num_epochs"] == 5
    prune = old.ok("GET", f"model/{model_id}/specs/prune/schema")["default"]
    assert prune["pruning_threshold"] == 0.5


def test_masks_are_made_of_boxes_in_any_set_with_boxes(ann: Member) -> None:
    answer = ann.client.post("experiments", json={"network_arch": "mal", "encryption_key": "k"})
    assert answer.status_code == 201, answer.text
    experiment = f"experiments/{answer.json()['id']}"

    def assign(type: str, format: str) -> Any:
        return ann.client.patch(experiment, json={"train_datasets": [made(ann, type, format)["id"]]})

    for type, format in (("instance_segmentation", "coco"), ("object_detection", "kitti")):
        assert assign(type, format).status_code == 200
    for type, format, what in (
        ("instance_segmentation", "coco_raw", "It reads coco"),
        ("object_detection", "coco_raw", "It reads coco, kitti, pascal_voc"),
        ("semantic_segmentation", "unet", "mal needs instance_segmentation or object_detection"),
    ):
        refused = assign(type, format)
        assert refused.status_code == 400 and what in refused.text, refused.text

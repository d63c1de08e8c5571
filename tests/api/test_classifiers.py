"""What networks with other names, specs and labels than the first one change over REST."""

from __future__ import annotations

from typing import Any

import pytest
from facade_support import Facade, Member, image_png, make_tar
from prefect_trainyard.api.services.experiments.specs import wanted_gpus
from prefect_trainyard.deployments.registration import deployed_flows
from v4_support import V4

TABLE = b"fname,colour\n1.png,red\n2.png,blue\n"
IMAGES = {f"set/images_train/{i}.png": image_png(i) for i in (1, 2)}


@pytest.fixture
def ann(facade: Facade) -> Member:
    return facade.member()


def made(member: Member, **body: Any) -> dict[str, Any]:
    answer = member.client.post("experiments", json={"encryption_key": "k", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def test_an_alias_is_taken_wherever_a_network_is_named(ann: Member) -> None:
    experiment = made(ann, network_arch="classification_tf1")
    assert experiment["network_arch"] == "classification"
    for word in ("classification", "classification_tf1"):
        found = ann.client.get(f"experiments?network_arch={word}").json()
        assert [item["id"] for item in found] == [experiment["id"]]
        assert ann.client.get(f"experiments?network_arch=!{word}").json() == []
        changed = ann.client.patch(f"experiments/{experiment['id']}", json={"network_arch": word})
        assert changed.status_code == 200, changed.text
        schema = ann.client.get(f"specs/train/schema?network={word}").json()
        assert schema["default"]["train_config"]["n_epochs"] == 80
    refused = ann.client.patch(f"experiments/{experiment['id']}", json={"network_arch": "classification_tf2"})
    assert refused.status_code == 400


def test_a_table_of_labels_comes_with_any_of_the_pieces(ann: Member) -> None:
    dataset_id = ann.dataset("custom")
    for files in (dict([*IMAGES.items()][:1]), {**dict([*IMAGES.items()][1:]), "set/train.csv": TABLE}):
        answer = ann.upload(dataset_id, make_tar(files))
        assert answer.status_code == 201, answer.text
    stored = ann.facade.files_of(f"{ann.org}/datasets/{dataset_id}/raw")
    assert stored == ["images/1.png", "images/2.png", "train.csv"]
    assert ann.facade.storage.read_json(f"{ann.org}/datasets/{dataset_id}/raw.json")["classes"] == {}
    folders = ann.upload(dataset_id, make_tar({"images/red/3.png": image_png(3), "images/blue/4.png": image_png(4)}))
    assert folders.status_code == 400
    assert "Some images of the data set lie in class folders, and some do not." in folders.json()["error_desc"]

    experiment = made(ann, network_arch="multitask_classification", train_datasets=[dataset_id])
    body = {"parent_job_id": None, "action": "train", "specs": {"training_config": {"num_epochs": 2}, "gpus": 2}}
    started = ann.client.post(f"experiments/{experiment['id']}/jobs", json=body)
    assert started.status_code == 201, started.text


def test_a_format_that_the_network_does_not_read_is_refused(ann: Member) -> None:
    body = {"network_arch": "multitask_classification", "encryption_key": "k", "train_datasets": [ann.dataset()]}
    answer = ann.client.post("experiments", json=body)
    assert answer.status_code == 400
    assert "multitask_classification does not read" in answer.json()["error_desc"]


def test_releases_from_5_0_on_call_the_network_of_the_v4_document_otherwise(facade: Facade) -> None:
    old = V4.of(facade.member(release="4.0"))
    new = V4.of(facade.member(org=old.member.org, user="bob", release="5.2"))
    model_id = old.model()
    assert old.ok("GET", f"model/{model_id}")["network_arch"] == "classification"
    assert new.ok("GET", f"model/{model_id}")["network_arch"] == "classification_tf1"


@pytest.mark.parametrize(
    ("spec", "gpus"), [({}, 1), ({"gpus": 3}, 3), ({"train": {"num_gpus": 2}}, 2), ({"gpus": 1, "train_config": {}}, 1)]
)
def test_the_gpus_of_a_job_are_those_of_its_spec(spec: dict[str, Any], gpus: int) -> None:
    assert wanted_gpus({"spec": spec}) == gpus


def test_forms_have_the_names_of_the_wire() -> None:
    forms = {f"{item.flow}/{item.name}": item.form for item in deployed_flows()}
    assert "train/classification_tf1" not in forms
    spec = next(d for name, d in forms["train/classification"]["definitions"].items() if name.endswith("TrainSpec"))
    assert set(spec["properties"]) == {"gpus", "model_config", "train_config", "eval_config"}

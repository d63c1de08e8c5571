"""Data sets and experiments: fields, bounds, lists, schema."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from support import files_with


def test_dataset_lives_from_create_to_delete(ann) -> None:
    body = {
        "type": "image_classification",
        "format": "default",
        "name": "Digits",
        "description": "ten\nclasses",
        "version": "2.0.0",
        "logo": "logo.png",
        "cloud_details": {"cloud_type": "aws", "cloud_file_type": "folder"},
        "docker_env_vars": {"WANDB_API_KEY": "S3CRET"},
        "client_id": "S3CRET",
        "client_secret": "S3CRET",
        "filters": "S3CRET",
        "user_id": "x",
        "id": "chosen by the client",
        "created_on": "never",
        "unknown": {"field": 1},
    }
    made = ann.client.post("datasets", content=json.dumps(body))
    assert made.status_code == 201
    dataset = made.json()
    assert dataset["name"] == "Digits" and dataset["version"] == "2.0.0"
    assert dataset["actions"] == ["convert", "dataset_convert"] and dataset["jobs"] == []
    assert dataset["docker_env_vars"] == {"WANDB_API_KEY": "********"} and dataset["client_url"] == ""
    assert not {"client_id", "client_secret", "filters", "user_id", "unknown"} & set(dataset)
    assert dataset["id"] != body["id"]
    for moment in (dataset["created_on"], dataset["last_modified"]):
        assert len(moment) <= 26 and not moment.endswith("Z") and "+" not in moment
    read = ann.client.get(f"datasets/{dataset['id']}")
    assert read.json() == dataset
    for method in ("PUT", "PATCH"):
        changed = ann.client.request(method, f"datasets/{dataset['id']}", content=json.dumps({"name": method}))
        assert changed.status_code == 200
        assert changed.json()["name"] == method and changed.json()["description"] == "ten\nclasses"
    assert ann.client.delete(f"datasets/{dataset['id']}").json()["id"] == dataset["id"]
    assert ann.client.get(f"datasets/{dataset['id']}").status_code == 404


def test_secrets_that_clients_send_are_kept_nowhere_in_the_clear(ann) -> None:
    secret = f"sentinel{uuid4().hex}"
    variables = {"docker_env_vars": {"WANDB_API_KEY": secret}}
    dataset_id = ann.dataset(client_secret=secret, client_id=secret, **variables)
    cloud = {"cloud_type": "aws", "cloud_specific_details": {"secret_key": secret}}
    experiment_id = ann.experiment(cloud_details=cloud, **variables)
    answers = ann.client.get(f"datasets/{dataset_id}").text + ann.client.get(f"experiments/{experiment_id}").text
    wrong = ann.client.patch(f"datasets/{dataset_id}", content=json.dumps({"client_secret": [secret]}))
    assert wrong.status_code == 400
    assert secret not in answers + wrong.text
    assert files_with(secret, ann.facade.settings.home) == []


def test_experiment_lives_from_create_to_delete(ann) -> None:
    dataset_id, raw_id = ann.dataset(), ann.dataset("raw")
    made = ann.client.post("experiments", content='{"network_arch": "classification_pyt", "encryption_key": "k"}')
    assert made.status_code == 201
    experiment = made.json()
    assert experiment["encryption_key"] == "k"
    assert experiment["ngc_path"] == "" and experiment["additional_id_info"] == ""
    assert experiment["dataset_type"] == "image_classification"
    assert experiment["actions"][0] == "train" and "gen_trt_engine" in experiment["actions"]
    patch = {
        "name": "Mine",
        "train_datasets": [dataset_id],
        "eval_dataset": dataset_id,
        "inference_dataset": raw_id,
        "calibration_dataset": dataset_id,
        "base_experiment": [],
        "metric": "kpi",
        "checkpoint_choose_method": "latest_model",
        "checkpoint_epoch_number": {"from_epoch_number_x": 3},
        "automl_settings": {"automl_enabled": False, "automl_algorithm": "Bayesian"},
        "model_params": {"a": [1, 2.5, None]},
        "type": "medical",
        "docker_env_vars": {},
    }
    path = f"experiments/{experiment['id']}"
    changed = ann.client.patch(path, content=json.dumps(patch))
    assert changed.status_code == 200
    for name, value in patch.items():
        if name != "automl_settings":
            assert changed.json()[name] == value, name
    assert changed.json()["automl_settings"]["automl_algorithm"] == "bayesian"
    assert changed.json()["encryption_key"] == "k"
    record = ann.facade.storage.read_json(f"{ann.org}/experiments/{experiment['id']}.json")
    assert record["datasets"]["train"] == [dataset_id] and record["checkpoint"] == "latest_model"
    cleared = ann.client.patch(path, content=json.dumps({"eval_dataset": None, "train_datasets": []}))
    assert cleared.json()["eval_dataset"] is None and cleared.json()["train_datasets"] == []
    assert cleared.json()["inference_dataset"] == raw_id
    assert ann.client.delete(path).json()["id"] == experiment["id"]
    assert ann.client.get(path).status_code == 404
    assert not ann.facade.files_of(f"{ann.org}/experiments")


def test_flat_sweep_settings_of_5_3_clients_are_taken(ann) -> None:
    experiment_id = ann.experiment()
    answer = ann.client.patch(
        f"experiments/{experiment_id}",
        content=json.dumps({"automl_enabled": True, "automl_algorithm": "HyperBand", "automl_R": 27}),
    )
    assert answer.status_code == 200
    assert answer.json()["automl_algorithm"] == "hyperband"
    assert answer.json()["automl_settings"]["automl_R"] == 27


def test_used_dataset_is_not_deleted(ann) -> None:
    dataset_id = ann.dataset()
    experiment_id = ann.experiment(eval_dataset=dataset_id)
    refused = ann.client.delete(f"datasets/{dataset_id}")
    assert refused.status_code == 400
    assert "in use" in refused.json()["error_desc"] and experiment_id in refused.json()["error_desc"]
    ann.client.delete(f"experiments/{experiment_id}")
    assert ann.client.delete(f"datasets/{dataset_id}").status_code == 200


def test_read_only_experiment_is_not_deleted(ann) -> None:
    path = f"experiments/{ann.experiment(read_only=True)}"
    assert ann.client.delete(path).status_code == 400
    ann.client.patch(path, content='{"read_only": false}')
    assert ann.client.delete(path).status_code == 200


DATASET = {"type": "image_classification", "format": "default"}
BAD_DATASETS = {
    "not json": b"{",
    "not utf-8": b'{"name": "\xff"}',
    "half a character": b'{"type": "image_classification", "format": "raw", "name": "\\ud800"}',
    "nan": b'{"type": "image_classification", "format": "raw", "x": NaN}',
    "huge number": b'{"type": "image_classification", "format": "raw", "x": 1e999}',
    "deeply nested": b'{"cloud_details": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "array": b"[]",
    "string": b'"x"',
    "null": b"null",
    "empty": b"",
    "no type": {"format": "default"},
    "no format": {"type": "image_classification"},
    "unknown type": DATASET | {"type": "cats"},
    "type of another kind": DATASET | {"type": 5},
    "type that is not here yet": DATASET | {"type": "pointpillars", "format": "default"},
    "unknown format": DATASET | {"format": "zip"},
    "format of another type": DATASET | {"format": "kitti"},
    "name is a number": DATASET | {"name": 5},
    "name is a list": DATASET | {"name": ["x"]},
    "name too long": DATASET | {"name": "x" * 501},
    "name with a line break": DATASET | {"name": "a\nb"},
    "name with an escape": DATASET | {"name": "a\x1b[31m"},
    "name with NUL": DATASET | {"name": "a\0b"},
    "description too long": DATASET | {"description": "x" * 1001},
    "version too long": DATASET | {"version": "1" * 11},
    "logo too long": DATASET | {"logo": "x" * 2049},
    "client_url too long": DATASET | {"client_url": "x" * 2049},
    "client_id too long": DATASET | {"client_id": "x" * 2049},
    "client_secret too long": DATASET | {"client_secret": "x" * 2049},
    "filters too long": DATASET | {"filters": "x" * 2049},
    "user_id too long": DATASET | {"user_id": "x" * 37},
    "unknown status": DATASET | {"status": "done"},
    "unknown cloud": DATASET | {"cloud_details": {"cloud_type": "mine"}},
    "cloud_details is text": DATASET | {"cloud_details": "aws"},
    "foreign environment": DATASET | {"docker_env_vars": {"LD_PRELOAD": "x"}},
    "environment of numbers": DATASET | {"docker_env_vars": {"WANDB_X": 1}},
    "pull": DATASET | {"pull": "http://169.254.169.254/"},
}


@pytest.mark.parametrize("body", BAD_DATASETS.values(), ids=BAD_DATASETS.keys())
def test_refuses_a_bad_dataset_and_keeps_nothing(ann, body) -> None:
    answer = ann.client.post("datasets", content=body if isinstance(body, bytes) else json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error_desc", "error_code"}
    assert 0 < len(answer.json()["error_desc"]) <= 1000 and answer.json()["error_code"] == 400
    assert ann.client.get("datasets").json() == []
    assert ann.facade.files_of(ann.org) == []


EXPERIMENT = {"network_arch": "classification_pyt"}
BAD_EXPERIMENTS = {
    "no network": {},
    "unknown network": {"network_arch": "resnet"},
    "network that is not here yet": {"network_arch": "ocdnet"},
    "network is a number": {"network_arch": 1},
    "name too long": EXPERIMENT | {"name": "x" * 501},
    "version too long": EXPERIMENT | {"version": "x" * 501},
    "description too long": EXPERIMENT | {"description": "x" * 1001},
    "encryption_key too long": EXPERIMENT | {"encryption_key": "x" * 101},
    "additional_id_info too long": EXPERIMENT | {"additional_id_info": "x" * 101},
    "bundle_url too long": EXPERIMENT | {"bundle_url": "x" * 1001},
    "ngc_path too long": EXPERIMENT | {"ngc_path": "x" * 251},
    "metric too long": EXPERIMENT | {"metric": "x" * 101},
    "unknown metric": EXPERIMENT | {"metric": "mAP"},
    "unknown type": EXPERIMENT | {"type": "audio"},
    "unknown checkpoint": EXPERIMENT | {"checkpoint_choose_method": "last"},
    "epoch is text": EXPERIMENT | {"checkpoint_epoch_number": {"a": "1"}},
    "epoch is negative": EXPERIMENT | {"checkpoint_epoch_number": {"a": -1}},
    "three base experiments": EXPERIMENT | {"base_experiment": [str(uuid4()) for _ in range(3)]},
    "unknown base experiment": EXPERIMENT | {"base_experiment": [str(uuid4())]},
    "base experiment is a path": EXPERIMENT | {"base_experiment": ["../../x"]},
    "dataset is no uuid": EXPERIMENT | {"eval_dataset": "x"},
    "dataset is empty": EXPERIMENT | {"eval_dataset": ""},
    "datasets is text": EXPERIMENT | {"train_datasets": str(uuid4())},
    "unknown dataset": EXPERIMENT | {"inference_dataset": str(uuid4())},
    "public is text": EXPERIMENT | {"public": "true"},
    "model_params is a list": EXPERIMENT | {"model_params": []},
    "timeout too long": EXPERIMENT | {"realtime_infer_request_timeout": 86_401},
    "timeout is a float": EXPERIMENT | {"realtime_infer_request_timeout": 1.5},
    "unknown sweep": EXPERIMENT | {"automl_settings": {"automl_algorithm": "annealing"}},
    "sweep out of bounds": EXPERIMENT | {"automl_settings": {"automl_R": -1}},
    "sweep above int64": EXPERIMENT | {"automl_settings": {"automl_R": 2**63}},
    "sweep text too long": EXPERIMENT | {"automl_settings": {"automl_add_hyperparameters": "x" * 5001}},
    "too large": EXPERIMENT | {"model_params": {"x": "y" * 100_001}},
}


@pytest.mark.parametrize("body", BAD_EXPERIMENTS.values(), ids=BAD_EXPERIMENTS.keys())
def test_refuses_a_bad_experiment_and_keeps_nothing(ann, body) -> None:
    answer = ann.client.post("experiments", content=json.dumps(body))
    assert answer.status_code == (413 if body.get("model_params") else 400), answer.text
    assert set(answer.json()) == {"error_desc", "error_code"}
    assert ann.client.get("experiments").json() == []
    assert ann.facade.files_of(ann.org) == []


def test_says_which_networks_and_types_are_here(ann) -> None:
    for kind, body in (("experiments", {"network_arch": "ocdnet"}), ("datasets", DATASET | {"type": "ocdnet"})):
        said = ann.client.post(kind, content=json.dumps(body)).json()["error_desc"]
        assert "not available yet" in said
        assert "classification" in said


def test_refuses_changes_of_what_cannot_change_and_changes_nothing_then(ann) -> None:
    dataset_id, raw_id, experiment_id = ann.dataset(), ann.dataset("raw"), ann.experiment()
    for path, change in (
        (f"datasets/{dataset_id}", {"type": "object_detection", "name": "new"}),
        (f"datasets/{dataset_id}", {"format": "raw", "name": "new"}),
        (f"experiments/{experiment_id}", {"network_arch": "dino", "name": "new"}),
        (f"experiments/{experiment_id}", {"train_datasets": [raw_id], "name": "new"}),
        (f"experiments/{experiment_id}", {"train_datasets": [dataset_id, str(uuid4())], "name": "new"}),
        (f"experiments/{experiment_id}", {"eval_dataset": raw_id, "name": "new"}),
    ):
        before = ann.client.get(path).json()
        answer = ann.client.patch(path, content=json.dumps(change))
        assert answer.status_code == 400, change
        assert ann.client.get(path).json() == before


@pytest.mark.parametrize("path", ["datasets/x", "experiments/123", "experiments/x/jobs", "datasets/x/jobs/y"])
def test_malformed_ids_are_told_from_unknown_ones(ann, path: str) -> None:
    assert ann.client.get(path).status_code == 400


def test_unknown_ids_are_not_found(ann) -> None:
    for path in ("datasets", "experiments"):
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            answer = ann.client.request(method, f"{path}/{uuid4()}", content="{}")
            assert answer.status_code == 404
        assert ann.client.get(f"{path}/{uuid4()}/jobs").status_code == 404


def test_lists_filter_sort_and_page(ann) -> None:
    names = ["b", "a", "c", "b"]
    ids = [ann.dataset("raw" if name == "c" else "default", name=name) for name in names]

    def listed(**query) -> list[str]:
        answer = ann.client.get("datasets", params=query)
        assert answer.status_code == 200, answer.text
        assert isinstance(answer.json(), list)
        return [item["id"] for item in answer.json()]

    newest_first = ids[::-1]
    assert listed() == newest_first
    assert listed(sort="date-ascending") == ids
    assert listed(sort="name-ascending")[0] == ids[1]
    assert listed(sort="name-descending")[0] == ids[2]
    assert listed(skip=1, size=2) == newest_first[1:3]
    assert listed(size=0) == []
    assert listed(skip=100) == []
    assert listed(name="b") == [ids[3], ids[0]]
    assert listed(name="!b") == [ids[2], ids[1]]
    assert listed(format="raw") == [ids[2]]
    assert listed(format="!raw", name="b", sort="date-ascending") == [ids[0], ids[3]]
    assert listed(type="image_classification") == newest_first
    assert listed(type="object_detection") == []
    assert listed(type="!object_detection") == newest_first
    assert listed(unknown="x") == newest_first
    assert ann.client.get("datasets", params={"name": "b", "size": 1}).headers["x-pagination-total"] == "2"


def test_experiment_lists_filter_by_every_documented_field(facade, ann) -> None:
    bob = facade.member(org=ann.org, user="bob")
    first, second = ann.experiment(name="x"), bob.experiment(type="medical", read_only=True)

    def listed(**query) -> set[str]:
        answer = ann.client.get("experiments", params=query)
        assert answer.status_code == 200, answer.text
        return {item["id"] for item in answer.json()}

    both = {first, second}
    assert listed() == both
    assert listed(network_arch="classification_pyt") == listed(arch="classification_pyt") == both
    assert listed(arch="dino") == listed(network_arch="!classification_pyt") == set()
    assert listed(type="vision") == listed(type="!medical") == {first}
    assert listed(read_only="true") == listed(read_only="!false") == {second}
    assert listed(read_only="False") == {first}
    assert listed(user_only="true") == {first}
    assert listed(name="x") == {first} and listed(name="!x") == {second}


BAD_QUERIES = [
    {"sort": "size"},
    {"skip": "-1"},
    {"skip": "x"},
    {"size": "-1"},
    {"size": str(2**31)},
    {"skip": "1.5"},
    {"type": "cats"},
    {"name": "x" * 5001},
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=str)
@pytest.mark.parametrize("kind", ["datasets", "experiments"])
def test_refuses_bad_queries(ann, kind: str, query: dict[str, str]) -> None:
    answer = ann.client.get(kind, params=query)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error_desc", "error_code"}


def test_clients_from_5_5_on_get_objects_below_orgs(facade) -> None:
    new = facade.member(release="5.5", root="orgs")
    old = facade.member(org=new.org, user="bob", release="5.3", root="orgs")
    by_user = facade.member(org=new.org, user="carol", release="5.5", root="users")
    dataset_id, experiment_id = new.dataset(), new.experiment()
    for kind, key in (("datasets", dataset_id), ("experiments", experiment_id)):
        answer = new.client.get(kind, params={"skip": 0, "size": 10}).json()
        assert [item["id"] for item in answer[kind]] == [key]
        assert answer["pagination_info"] == {
            "total_records": 1,
            "total_pages": 1,
            "page_size": 10,
            "page_index": 0,
        }
        for other in (old, by_user):
            assert [item["id"] for item in other.client.get(kind).json()] == [key]


def test_schema_serves_defaults_bounds_and_sweep_parameters(ann) -> None:
    experiment_id, dataset_id = ann.experiment(), ann.dataset()
    for action in ann.client.get(f"experiments/{experiment_id}").json()["actions"]:
        schema = ann.client.get(f"experiments/{experiment_id}/specs/{action}/schema").json()
        assert schema["type"] == "object"
        assert isinstance(schema["default"], dict) and isinstance(schema["automl_default_parameters"], list)
        assert "'" not in json.dumps(schema["default"])
    train = ann.client.get(f"experiments/{experiment_id}/specs/train/schema").json()["default"]
    assert train["train"]["train_config"]["runner"]["max_epochs"] == 40
    assert "num_gpus" in train["train"]
    engine = ann.client.get(f"experiments/{experiment_id}/specs/gen_trt_engine/schema").json()["default"]
    assert "data_type" in engine["gen_trt_engine"]["tensorrt"]
    assert ann.client.get(f"datasets/{dataset_id}/specs/convert/schema").json()["default"] == {}
    for path in (f"experiments/{experiment_id}/specs/fly/schema", f"datasets/{dataset_id}/specs/train/schema"):
        answer = ann.client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error_desc"].startswith("Action not found")

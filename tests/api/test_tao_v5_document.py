"""Every endpoint and every model of the document `nvidia-transfer-learning-api-5.3.0`, as it prints them.

The document has no example bodies; it prints each request and each answer as a table of fields with their types,
words and bounds. Those tables are here, and the real answers are held against them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import httpx
import pytest
from facade_support import Facade, Member, image_tar
from prefect_trainyard.api.dialects.tao_v5 import schemas

Field = dict[str, Any]
"""How a field is printed: `max_chars`, `words`, `from` and `to`, `items`, `fields`, or its `kind`."""

GOLDEN = json.loads((Path(__file__).parent / "golden" / "transfer_learning_5_3.json").read_text())
ENDPOINTS: dict[str, dict[str, Any]] = GOLDEN["endpoints"]
MODELS: dict[str, Field] = GOLDEN["models"]
WRITE_ONLY = set(GOLDEN["write_only"])
#: Only in an answer when the client gave it, or when there is something to tell.
SOMETIMES = set(GOLDEN["sometimes"])
DATASET, EXPERIMENT = MODELS["dataset"], MODELS["experiment"]
DATASET_JOB, EXPERIMENT_JOB = MODELS["dataset_job"], MODELS["experiment_job"]
ID: Field = {"max_chars": 36}
OBJECT: Field = {"kind": "object"}


def many(field: Field) -> Field:
    return {"items": field}


@pytest.fixture(scope="module")
def cat(facade: Facade) -> Member:
    """A client that speaks as the document does."""
    return facade.member(user="cat", root="orgs")


@pytest.fixture(scope="module")
def things(cat: Member) -> dict[str, str]:
    """A data set and an experiment, each with a job that is done."""
    dataset_id = cat.filled()
    experiment_id = cat.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)
    job_id = cat.start(f"experiments/{experiment_id}", "train", specs={}, name="n", num_gpu=0, platform="a100")
    cat.finish(job_id)
    cat.wait(f"experiments/{experiment_id}", job_id, "Done")
    convert_id = cat.start(f"datasets/{dataset_id}", "convert")
    return {"dataset": dataset_id, "experiment": experiment_id, "train": job_id, "convert": convert_id}


def problems(field: Field, value: Any, where: str = "") -> Iterator[str]:
    """Yield what in an answer is not as the document prints it."""
    if "fields" in field:
        for name in WRITE_ONLY & set(value):
            yield f"{where}.{name} is write-only"
        for name, inner in field["fields"].items():
            if value.get(name) is not None:
                yield from problems(inner, value[name], f"{where}.{name}")
            elif name not in value and name not in SOMETIMES | WRITE_ONLY:
                yield f"{where}.{name} is missing"
    elif "words" in field:
        if value not in field["words"]:
            yield f"{where}: {value!r} is none of {field['words']}"
    elif "items" in field:
        for index, item in enumerate(value):
            yield from problems(field["items"], item, f"{where}[{index}]")
    elif "max_chars" in field:
        if not isinstance(value, str) or len(value) > field["max_chars"]:
            yield f"{where}: {value!r} is no text of {field['max_chars']} characters"
    elif "to" in field:
        if not isinstance(value, int) or isinstance(value, bool) or not field["from"] <= value <= field["to"]:
            yield f"{where}: {value!r} is no integer from {field['from']} to {field['to']}"
    elif field["kind"] != "any":
        kinds = {"boolean": bool, "number": int | float, "object": dict}
        if not isinstance(value, kinds[field["kind"]]):
            yield f"{where}: {value!r} is no {field['kind']}"


def answered(response: httpx.Response, number: str, field: Field) -> Any:
    """Return the body of an answer that has the status and the form of the document."""
    assert response.status_code == ENDPOINTS[number]["status"], response.text
    body = response.json()
    assert list(problems(field, body)) == []
    return body


def test_all_34_endpoints_are_served_with_their_status(facade: Facade) -> None:
    served = httpx.get(f"{facade.url}/openapi.json").json()["paths"]
    assert len(ENDPOINTS) == 34
    missing = [
        (number, asked)
        for number, asked in ENDPOINTS.items()
        if str(asked["status"])
        not in served.get(asked["path"], {}).get(asked["method"].lower(), {}).get("responses", {})
    ]
    assert missing == []


def test_the_words_of_the_document_are_taken() -> None:
    known = {
        "actions": schemas.ActionWord,
        "formats": schemas.DatasetFormat,
        "types": schemas.DatasetType,
        "networks": schemas.NetworkArch,
        "pulls": schemas.PullStatus,
        "clouds": schemas.CloudType,
        "platforms": schemas.Platform,
    }
    for name, words in GOLDEN["words"].items():
        assert set(words) <= set(get_args(known[name])), name


def test_data_sets_answer_as_printed(cat: Member, things: dict[str, str]) -> None:
    path = f"datasets/{things['dataset']}"
    cat.wait(path, things["convert"], "Pending")
    for item in answered(cat.client.get("datasets"), "2.1", many(DATASET)):
        UUID(item["id"])
    body = {
        "type": "image_classification",
        "format": "default",
        "name": "n",
        "description": "d",
        "logo": "l",
        "client_id": "c",
        "client_secret": "s",
        "filters": "f",
        "user_id": "u",
        "version": "1",
        "status": "starting",
        "docker_env_vars": {"WANDB_MODE": "offline"},
        "cloud_details": {"cloud_type": "gcp"},
    }
    made = answered(cat.client.post("datasets", content=json.dumps(body)), "2.2", DATASET)
    answered(cat.client.get(path), "2.3", DATASET)
    answered(cat.client.put(path, content='{"name": "put"}'), "2.4", DATASET)
    answered(cat.client.patch(path, content='{"name": "patch"}'), "2.6", DATASET)
    answered(cat.client.delete(f"datasets/{made['id']}"), "2.5", DATASET)
    answered(cat.client.get(f"{path}/specs/convert/schema"), "2.14", OBJECT)


def test_jobs_of_data_sets_answer_as_printed(cat: Member) -> None:
    owner = f"datasets/{cat.filled()}"
    path = f"{owner}/jobs"
    job = f"{path}/{answered(cat.client.post(path, content=json.dumps({'action': 'convert'})), '2.8', ID)}"
    answered(cat.client.get(path), "2.7", many(DATASET_JOB))
    answered(cat.client.get(job), "2.9", DATASET_JOB)
    answered(cat.client.request("GET", f"{job}:status_update", content='{"status": "{}"}'), "2.13", DATASET_JOB)
    answered(cat.client.request("GET", f"{job}:log_update", content='{"log_contents": "x"}'), "3.1", DATASET_JOB)
    answered(cat.client.post(f"{job}:cancel"), "2.11", OBJECT)
    answered(cat.client.delete(job), "2.10", OBJECT)
    done = cat.start(owner, "convert")
    cat.finish(done, network=None)
    cat.wait(owner, done, "Done")
    download = cat.client.get(f"{path}/{done}:download")
    assert download.status_code == 200 and download.headers["content-type"] == "application/gzip"


def test_experiments_answer_as_printed(cat: Member, things: dict[str, str]) -> None:
    path = f"experiments/{things['experiment']}"
    assert answered(cat.client.get("experiments"), "4.1", many(EXPERIMENT))
    body = {"network_arch": "classification_pyt", "encryption_key": "k", "automl_settings": {"automl_R": 27}}
    made = answered(cat.client.post("experiments", content=json.dumps(body)), "4.2", EXPERIMENT)
    answered(cat.client.get(path), "4.3", EXPERIMENT)
    answered(cat.client.put(path, content='{"name": "put"}'), "4.4", EXPERIMENT)
    answered(cat.client.patch(path, content='{"name": "patch"}'), "4.6", EXPERIMENT)
    answered(cat.client.delete(f"experiments/{made['id']}"), "4.5", EXPERIMENT)
    answered(cat.client.get(f"{path}/specs/train/schema"), "4.18", OBJECT)


def test_jobs_of_experiments_answer_as_printed(cat: Member, things: dict[str, str]) -> None:
    path, train = f"experiments/{things['experiment']}/jobs", things["train"]
    job = f"{path}/{answered(cat.client.post(path, content=json.dumps({'action': 'train'})), '4.8', ID)}"
    answered(cat.client.get(path), "4.7", many(EXPERIMENT_JOB))
    shown = answered(cat.client.get(f"{path}/{train}"), "4.9", EXPERIMENT_JOB)
    assert {"graphical", "kpi", "categorical", "stats", "key_metric", "epoch"} <= set(shown["result"])
    assert {"num_gpu", "platform"} <= set(shown) and set(shown["job_tar_stats"]) == {"file_size", "sha256_digest"}
    logs = cat.client.get(f"{path}/{train}/logs")
    assert logs.status_code == 200 and logs.headers["content-type"].startswith("text/plain")
    answered(cat.client.request("GET", f"{job}:status_update", content="{}"), "4.17", EXPERIMENT_JOB)
    answered(cat.client.request("GET", f"{job}:log_update", content="{}"), "4.14", EXPERIMENT_JOB)
    answered(cat.client.post(f"{job}:cancel"), "4.12", OBJECT)
    answered(cat.client.post(f"{job}:resume", content='{"specs": {}}'), "4.16", OBJECT)
    cat.client.post(f"{job}:cancel")
    cat.client.post(f"{job}:cancel")
    answered(cat.client.delete(job), "4.10", OBJECT)
    download = cat.client.get(f"{path}/{train}:download")
    assert download.status_code == 200 and len(download.content) == shown["job_tar_stats"]["file_size"]
    # 4.15 needs an MLflow server: test_publishing


@pytest.mark.parametrize("number", [n for n, asked in ENDPOINTS.items() if "_id}" in asked["path"]])
def test_what_is_not_there_answers_404_as_printed(cat: Member, things: dict[str, str], number: str) -> None:
    method, path = ENDPOINTS[number]["method"], ENDPOINTS[number]["path"]
    path = path.format(
        org_name=cat.org,
        dataset_id=things["dataset"] if "job_id" in path else uuid4(),
        experiment_id=things["experiment"] if "job_id" in path else uuid4(),
        job_id=uuid4(),
        action="train" if "experiment" in path else "convert",
    )
    answer = cat.client.request(method, f"{cat.facade.url}{path}", content='{"action": "convert"}')
    assert answer.status_code == 404, answer.text
    error = answer.json()
    assert set(error) == {"error_code", "error_desc"} and error["error_code"] == 404
    assert 0 < len(error["error_desc"]) <= 1000


def bounds(model: Field, base: dict[str, Any]) -> list[Any]:
    """Return bodies with one field at its bound or behind it, and whether they are to be taken."""
    found = []

    def add(name: str, value: object, taken: bool, what: str) -> None:
        found.append(pytest.param({**base, name: value}, taken, id=f"{name} {what}"))

    for name, field in model["fields"].items():
        if "max_chars" in field:
            size = field["max_chars"]
            # others are ids, addresses, names of metrics and lists: being short enough is not enough for them
            if name not in ("client_url", "metric", "parent_job_id") and not re.search("dataset|hyperparameters", name):
                add(name, "x" * size, True, f"of {size}")
            add(name, "x" * (size + 1), False, f"of {size + 1}")
        elif "to" in field:
            for number, taken in ((field["from"], True), (field["to"], True)):
                add(name, number, taken, f"= {number}")
            for number in (field["from"] - 1, field["to"] + 1):
                add(name, number, False, f"= {number}")
        elif "words" in field:
            add(name, "nothing", False, "of no word")
        elif "fields" in field:
            for inner in bounds(field, {}):
                body, taken = inner.values
                add(name, body, taken, f"with {inner.id}")
        elif field.get("kind") == "boolean":
            add(name, True, True, "true")
            add(name, False, True, "false")
        if field.get("kind") != "any":
            add(name, 1.5, False, "of another type")
    return found


@pytest.mark.parametrize(
    ("body", "taken"), bounds(MODELS["dataset_in"], {"type": "image_classification", "format": "default"})
)
def test_fields_of_data_sets_have_their_bounds(cat: Member, body: dict[str, Any], taken: bool) -> None:
    answer = cat.client.post("datasets", content=json.dumps(body))
    assert answer.status_code == (201 if taken else 400), answer.text


@pytest.mark.parametrize(("body", "taken"), bounds(MODELS["experiment_in"], {"network_arch": "classification_pyt"}))
def test_fields_of_experiments_have_their_bounds(cat: Member, body: dict[str, Any], taken: bool) -> None:
    answer = cat.client.post("experiments", content=json.dumps(body))
    assert answer.status_code == (201 if taken else 400), answer.text


@pytest.mark.parametrize(("body", "taken"), bounds(MODELS["job_in"], {"action": "train"}))
def test_fields_of_jobs_have_their_bounds(
    cat: Member, things: dict[str, str], body: dict[str, Any], taken: bool
) -> None:
    answer = cat.client.post(f"experiments/{things['experiment']}/jobs", content=json.dumps(body))
    assert answer.status_code == (201 if taken else 400), answer.text


def test_an_upload_goes_with_the_document(cat: Member) -> None:
    dataset_id = cat.dataset()
    assert cat.client.get(f"datasets/{dataset_id}").json()["status"] == "starting"
    assert cat.upload(dataset_id, image_tar(["cat", "dog"])).status_code == 201
    assert cat.client.get(f"datasets/{dataset_id}").json()["status"] == "pull_complete"

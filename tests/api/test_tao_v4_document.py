"""The v4 dialect, endpoint by endpoint of its document."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, image_tar
from prefect_trainyard.schemas.actions import Action
from v4_support import DATASET, ERROR, JOB, MODEL, NETWORK, OBJECT, V4, assert_fits


@pytest.fixture
def ann(facade: Facade) -> V4:
    return V4.of(facade.member(release="4.0"))


# The endpoints of the document: number, method, path, status of success, model of the answer.
_DATASET, _MODEL = "/dataset/{dataset_id}", "/model/{model_id}"
ENDPOINTS: dict[str, tuple[str, str, int, Any]] = {
    "1.1": ("GET", "/dataset", 200, [DATASET]),
    "1.2": ("POST", "/dataset", 201, DATASET),
    "1.3": ("GET", _DATASET, 200, DATASET),
    "1.4": ("PUT", _DATASET, 200, DATASET),
    "1.5": ("DELETE", _DATASET, 200, DATASET),
    "1.6": ("PATCH", _DATASET, 200, DATASET),
    "1.7": ("POST", f"{_DATASET}/upload", 201, {"message": str}),
    "1.8": ("GET", f"{_DATASET}/specs/{{action}}/schema", 200, OBJECT),
    "1.9": ("GET", f"{_DATASET}/specs/{{action}}", 200, OBJECT),
    "1.10": ("PUT", f"{_DATASET}/specs/{{action}}", 200, OBJECT),
    "1.11": ("POST", f"{_DATASET}/specs/{{action}}", 201, OBJECT),
    "1.12": ("GET", f"{_DATASET}/job", 200, [JOB]),
    "1.13": ("POST", f"{_DATASET}/job", 201, [str]),
    "1.14": ("GET", f"{_DATASET}/job/{{job_id}}", 200, JOB),
    "1.15": ("DELETE", f"{_DATASET}/job/{{job_id}}", 200, OBJECT),
    "1.16": ("POST", f"{_DATASET}/job/{{job_id}}/cancel", 200, OBJECT),
    "1.17": ("GET", f"{_DATASET}/job/{{job_id}}/download", 200, bytes),
    "2.1": ("GET", "/model", 200, [MODEL]),
    "2.2": ("POST", "/model", 201, MODEL),
    "2.3": ("GET", _MODEL, 200, MODEL),
    "2.4": ("PUT", _MODEL, 200, MODEL),
    "2.5": ("DELETE", _MODEL, 200, MODEL),
    "2.6": ("PATCH", _MODEL, 200, MODEL),
    "2.7": ("GET", f"{_MODEL}/specs/{{action}}/schema", 200, OBJECT),
    "2.8": ("GET", f"{_MODEL}/specs/{{action}}", 200, OBJECT),
    "2.9": ("PUT", f"{_MODEL}/specs/{{action}}", 200, OBJECT),
    "2.10": ("POST", f"{_MODEL}/specs/{{action}}", 201, OBJECT),
    "2.11": ("GET", f"{_MODEL}/job", 200, [JOB]),
    "2.12": ("POST", f"{_MODEL}/job", 201, [str]),
    "2.13": ("GET", f"{_MODEL}/job/{{job_id}}", 200, JOB),
    "2.14": ("DELETE", f"{_MODEL}/job/{{job_id}}", 200, OBJECT),
    "2.15": ("POST", f"{_MODEL}/job/{{job_id}}/cancel", 200, OBJECT),
    "2.16": ("POST", f"{_MODEL}/job/{{job_id}}/resume", 200, OBJECT),
    "2.17": ("GET", f"{_MODEL}/job/{{job_id}}/download", 200, bytes),
}
#: What real clients call beyond the document.
EXTRAS = {
    (method, f"{owner}/job/{{job_id}}/{verb}")
    for owner in (_DATASET, _MODEL)
    for method, verb in (("GET", "list_files"), ("GET", "download_selective_files"))
}


def test_the_served_document_has_every_endpoint_and_no_other(facade: Facade) -> None:
    root = "/api/v1/user/{user_id}"
    served = {
        (method.upper(), path.removeprefix(root))
        for path, operations in facade.app.openapi()["paths"].items()
        if path.startswith(f"{root}/")
        for method in operations
    }
    assert served == {(method, path) for method, path, _, _ in ENDPOINTS.values()} | EXTRAS


def test_every_endpoint_answers_as_the_document_prints_it(ann: V4) -> None:
    called = set()

    def call(number: str, body: object = None, files: Any = None, query: Any = None, **ids: str) -> Any:
        method, path, status, model = ENDPOINTS[number]
        called.add(number)
        content = json.dumps(body) if body is not None else None
        target = path.format_map(ids).removeprefix("/")
        answer = ann.client.request(method, target, content=content, files=files, params=query)
        assert answer.status_code == status, (number, answer.status_code, answer.text)
        if model is bytes:
            assert answer.headers["content-type"] == "application/octet-stream"
            return answer.content
        assert answer.headers["content-type"] == "application/json"
        assert_fits(answer.json(), model, number)
        return answer.json()

    dataset = call("1.2", {"type": "image_classification", "format": "default", "name": "pets", "logo": "l"})
    of_set = {"dataset_id": dataset["id"], "action": "convert"}
    assert dataset["version"] == "1.0.0" and dataset["name"] == "pets" and dataset["logo"] == "l"
    assert call("1.7", files={"file": ("set.tar.gz", image_tar(["cat", "dog"]))}, **of_set) == {
        "message": "Data successfully uploaded"
    }
    assert call("1.3", **of_set)["id"] == dataset["id"]
    assert call("1.4", {**dataset, "description": "by PUT"}, **of_set)["description"] == "by PUT"
    assert call("1.6", {"description": "by PATCH"}, **of_set)["description"] == "by PATCH"
    window = {"skip": 0, "size": 10, "sort": "name-ascending", "name": "pets", "type": "image_classification"}
    assert [item["id"] for item in call("1.1", query=window)] == [dataset["id"]]
    assert call("1.8", **of_set)["default"] == {}
    assert call("1.11", {"gpus": 1}, **of_set) == {"gpus": 1}
    assert call("1.10", {"note": "x"}, **of_set) == {"gpus": 1, "note": "x"}
    assert call("1.9", **of_set) == {"gpus": 1, "note": "x"}
    converted, cancelled = call("1.13", [{"actions": ["convert"]}, {"actions": ["dataset_convert"]}], **of_set)
    call("1.16", job_id=cancelled, **of_set)
    assert ann.ok("GET", f"dataset/{dataset['id']}/job/{cancelled}")["status"] == "Error"
    ann.member.finish(converted, Action.CONVERT, None)
    ann.wait(f"dataset/{dataset['id']}", converted, "Done")
    assert call("1.15", job_id=cancelled, **of_set) == {}
    assert call("1.14", job_id=converted, **of_set)["action"] == "convert"
    assert [job["id"] for job in call("1.12", query={"size": 5, "sort": "date-ascending"}, **of_set)] == [converted]
    assert len(call("1.17", job_id=converted, **of_set)) == 300_000

    asked = {"network_arch": NETWORK, "encryption_key": "tlt_encode", "name": "m", "ptm": "", "public": False}
    model = call("2.2", asked)
    of_model = {"model_id": model["id"], "action": "train"}
    assert model["network_arch"] == NETWORK and model["encryption_key"] == "tlt_encode" and model["ptm"] == ""
    roles = {f"{role}_dataset": dataset["id"] for role in ("eval", "inference", "calibration")}
    assert call("2.6", {"train_datasets": [dataset["id"]], **roles}, **of_model)["eval_dataset"] == dataset["id"]
    changed = {name: value for name, value in model.items() if name in asked} | {"description": "by PUT"}
    assert call("2.4", changed, **of_model)["description"] == "by PUT"
    assert call("2.3", **of_model)["train_datasets"] == [dataset["id"]]
    listed = call("2.1", query={"arch": NETWORK, "read_only": "false", "sort": "date-descending"})
    assert [item["id"] for item in listed] == [model["id"]]
    spec = call("2.7", **of_model)["default"]
    spec["train_config"]["n_epochs"] = 3
    assert call("2.10", spec, **of_model) == spec
    assert call("2.9", {"gpus": 2}, **of_model) == {**spec, "gpus": 2}
    assert call("2.8", **of_model) == {**spec, "gpus": 2}
    trained, evaluated = call("2.12", [{"job": converted, "actions": ["train", "evaluate"]}], **of_model)
    ann.facade.prefect.move(trained, "RUNNING")
    assert ann.wait(f"model/{model['id']}", trained, "Running")["parent_id"] == converted
    call("2.15", job_id=trained, **of_model)
    ann.facade.prefect.move(trained, "PAUSED", "Suspended")
    assert ann.wait(f"model/{model['id']}", trained, "Error")["result"]["detailed_status"]["message"]
    call("2.16", job_id=trained, **of_model)
    ann.wait(f"model/{model['id']}", trained, "Pending")
    ann.member.finish(trained)
    ann.wait(f"model/{model['id']}", trained, "Done")
    done = call("2.13", job_id=trained, **of_model)["result"]
    assert (done["epoch"], done["cur_epoch"], done["max_epoch"]) == (3, 3, 3)
    assert done["graphical"][0]["values"] == [1.0, 0.5, 1 / 3]
    assert done["kpi"][0]["value"] == 0.5 and done["kpi"][0]["metric"] == "accuracy_top-1"
    assert {job["id"] for job in call("2.11", query={"skip": 0, "size": 2}, **of_model)} == {trained, evaluated}
    assert len(call("2.17", job_id=trained, **of_model)) == 300_000
    ann.ok("POST", f"model/{model['id']}/job/{evaluated}/cancel")
    call("2.14", job_id=evaluated, **of_model)
    assert call("2.5", **of_model)["id"] == model["id"]
    assert call("1.5", **of_set)["id"] == dataset["id"]
    assert called == set(ENDPOINTS)


def test_unknown_and_foreign_ids_answer_alike_in_the_words_of_the_document(ann: V4, facade: Facade) -> None:
    eve = V4.of(facade.member(user="eve", release="4.0"))
    dataset_id, model_id = ann.filled(), ann.ready()
    (job_id,) = ann.start(f"model/{model_id}", "train")
    (convert_id,) = ann.start(f"dataset/{dataset_id}", "convert")
    ann.ok("POST", f"model/{model_id}/specs/train", {"gpus": 1}, 201)
    for number, (method, path, _, _) in ENDPOINTS.items():
        if "_id}" not in path:
            continue
        action = "train" if path.startswith("/model") else "convert"
        job = job_id if path.startswith("/model") else convert_id
        texts = []
        for ids in (
            {"dataset_id": dataset_id, "model_id": model_id, "job_id": job},
            {name: str(uuid4()) for name in ("dataset_id", "model_id", "job_id")},
        ):
            target = path.format_map({**ids, "action": action}).removeprefix("/")
            if path.endswith("/upload"):
                answer = eve.upload(ids["dataset_id"], b"x")
            else:
                answer = eve.send(method, target, {"actions": [action]} if method != "GET" else None)
            assert answer.status_code == 404, (number, answer.status_code, answer.text)
            assert_fits(answer.json(), ERROR, number)
            assert not re.search("experiment", answer.text, re.IGNORECASE), answer.text
            texts.append(answer.text)
        assert texts[0] == texts[1], number
    for path in (f"dataset/{uuid4()}x", f"model/x/job/{uuid4()}"):
        assert_fits(ann.ok("GET", path, status=400), ERROR)
    other = httpx.get(f"{facade.url}/api/v1/user/{eve.member.user_id}/model", headers=ann.client.headers)
    assert other.status_code == 403 and other.json()["error_code"] == 2

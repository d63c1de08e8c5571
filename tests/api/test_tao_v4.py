"""The v4 dialect: what its words mean, and what clients up to 5.2 call beyond its document."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from facade_support import Facade, Prefect, image_tar, serve
from prefect_trainyard.api.services.experiments.base import add
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import ArtifactStorage
from safetensors.numpy import save_file
from support import poll
from v4_support import ERROR, MODEL, NETWORK, V4, assert_fits


@pytest.fixture
def ann(facade: Facade) -> V4:
    return V4.of(facade.member(release="4.0"))


BAD_BODIES: list[tuple[str, str, Any]] = [
    ("POST", "dataset", {"type": "image_classification"}),
    ("POST", "dataset", {"type": "pictures", "format": "default"}),
    ("POST", "dataset", {"type": "image_classification", "format": "hifigan"}),
    ("POST", "dataset", {"type": "image_classification", "format": "default", "name": 5}),
    ("POST", "dataset", {"type": "image_classification", "format": "default", "name": "a\nb"}),
    ("POST", "dataset", []),
    ("POST", "model", {"network_arch": NETWORK}),
    ("POST", "model", {"encryption_key": "k"}),
    ("POST", "model", {"network_arch": "resnet", "encryption_key": "k"}),
    ("POST", "model", {"network_arch": "vocoder", "encryption_key": "k"}),
    ("POST", "model", {"network_arch": NETWORK, "encryption_key": "k", "ptm": "x"}),
    ("POST", "model", {"network_arch": NETWORK, "encryption_key": "k", "ptm": str(uuid4())}),
    ("POST", "model", {"network_arch": NETWORK, "encryption_key": "k", "train_datasets": [str(uuid4())]}),
    ("POST", "model", {"network_arch": NETWORK, "encryption_key": "k", "metric": "beauty"}),
    ("PATCH", "{model}", {"network_arch": "unet"}),
    ("PATCH", "{dataset}", {"format": "raw"}),
    ("POST", "{model}/job", {"actions": []}),
    ("POST", "{model}/job", []),
    ("POST", "{model}/job", {"actions": "train"}),
    ("POST", "{model}/job", {"actions": ["kmeans"]}),
    ("POST", "{model}/job", {"actions": ["train"], "job": "x"}),
    ("POST", "{model}/job", [{"actions": ["train"]}, 5]),
    ("POST", "{model}/job", {"actions": ["train", "prune", "kmeans"]}),
    ("POST", "{model}/job", {"actions": ["prune"]}),
    ("POST", "{dataset}/job", {"actions": ["train"]}),
    ("POST", "{model}/specs/train", {"train_config": {"n_epochs": 0}}),
    ("POST", "{model}/specs/train", {"train": {"num_epochs": 80}}),
    ("POST", "{model}/specs/train", {"train_config": {"__prefect_kind": "json"}}),
    ("POST", "{model}/specs/train", [1]),
    ("PUT", "{model}/specs/train", {"train_config": 5}),
]


def test_bad_bodies_are_refused_and_leave_nothing_behind(ann: V4) -> None:
    dataset_id, model_id = ann.filled(), ann.ready()
    runs = ann.facade.prefect.count_runs()
    sets = len(ann.ok("GET", "dataset"))
    for method, path, body in BAD_BODIES:
        target = path.format(model=f"model/{model_id}", dataset=f"dataset/{dataset_id}")
        answer = ann.send(method, target, body)
        assert answer.status_code == 400, (method, path, body, answer.status_code, answer.text)
        assert_fits(answer.json(), ERROR)
    assert ann.facade.prefect.count_runs() == runs
    assert [item["id"] for item in ann.ok("GET", "model")] == [model_id]
    assert len(ann.ok("GET", "dataset")) == sets
    assert ann.ok("GET", f"model/{model_id}/job") == []
    for action in ("train", "nothing"):
        ann.ok("GET", f"model/{model_id}/specs/{action}", status=404)
    ann.ok("GET", f"model/{model_id}/specs/nothing/schema", status=404)
    ann.ok("POST", f"model/{model_id}/specs/nothing", {}, status=404)
    ann.ok("GET", "dataset?sort=size-ascending", status=400)
    ann.ok("GET", "model?arch=resnet", status=400)


def parameters(ann: V4, job_id: str) -> dict[str, Any]:
    return dict(ann.facade.prefect.run(job_id)["parameters"])


def test_jobs_run_with_what_was_saved_for_their_action(ann: V4) -> None:
    owner = f"model/{ann.ready()}"
    (plain,) = ann.start(owner, "train")
    assert parameters(ann, plain)["spec"] == {}
    spec = {"train_config": {"n_epochs": 4}, "eval_config": {"batch_size": 16}, "gpus": 1, "verbose": True}
    known = {name: value for name, value in spec.items() if name != "verbose"}
    ann.ok("POST", f"{owner}/specs/train", spec, 201)
    (trained,) = ann.start(owner, "train")
    assert parameters(ann, trained)["spec"] == known
    assert ann.ok("GET", f"{owner}/job/{trained}")["specs"] == spec
    # retrain, evaluate and inference go by the training's as far as it fits, until something is saved for them
    retrained, evaluated = ann.start(owner, "retrain", "evaluate", parent=trained)
    assert parameters(ann, retrained)["spec"] == known
    assert parameters(ann, evaluated)["spec"] == {"eval_config": {"batch_size": 16}}
    ann.ok("POST", f"{owner}/specs/evaluate", {"eval_config": {"batch_size": 8}}, 201)
    (again,) = ann.start(owner, "evaluate", parent=trained)
    assert parameters(ann, again)["spec"] == {"eval_config": {"batch_size": 8}}
    # saving replaces, updating merges
    ann.ok("PUT", f"{owner}/specs/train", {"train_config": {"n_epochs": 5}})
    merged = ann.ok("GET", f"{owner}/specs/train")
    assert merged["train_config"]["n_epochs"] == 5 and merged["eval_config"] == {"batch_size": 16}
    ann.ok("POST", f"{owner}/specs/train", {"gpus": 2}, 201)
    assert ann.ok("GET", f"{owner}/specs/train") == {"gpus": 2}
    # a refused spec leaves the saved one as it was
    ann.ok("PUT", f"{owner}/specs/train", {"train_config": {"n_epochs": -1}}, 400)
    assert ann.ok("GET", f"{owner}/specs/train") == {"gpus": 2}


def test_resume_takes_the_spec_that_is_saved_by_then(ann: V4) -> None:
    owner = f"model/{ann.ready()}"
    (job_id,) = ann.start(owner, "train")
    ann.ok("POST", f"{owner}/job/{job_id}/cancel")
    ann.wait(owner, job_id, "Error")
    spec = {"train_config": {"n_epochs": 9}}
    ann.ok("POST", f"{owner}/specs/train", spec, 201)
    assert ann.ok("POST", f"{owner}/job/{job_id}/resume") == {}
    assert ann.wait(owner, job_id, "Pending")["specs"] == spec
    (converted,) = ann.start(f"dataset/{ann.filled()}", "convert")
    ann.ok("POST", f"{owner}/job/{converted}/resume", status=404)


def test_several_actions_start_from_each_other_or_from_the_parent_that_is_named(ann: V4) -> None:
    owner = f"model/{ann.ready()}"

    def parents(jobs: list[str]) -> list[str | None]:
        return [ann.ok("GET", f"{owner}/job/{job}")["parent_id"] for job in jobs]

    first, second = (ann.start(owner, "train")[0] for _ in range(2))
    pruned, retrained, evaluated = ann.start(owner, "prune", "retrain", "evaluate", parent=first)
    assert parents([pruned, retrained, evaluated]) == [first, pruned, retrained]
    # an array: a part that names a parent starts from that, one that does not goes on with the part before it
    body = [{"job": first, "actions": ["prune"]}, {"job": second, "actions": ["prune"]}, {"actions": ["evaluate"]}]
    jobs = ann.ok("POST", f"{owner}/job", body, 201)
    assert parents(jobs) == [first, second, jobs[1]]
    orphan = [{"job": first, "actions": ["evaluate"]}, {"actions": ["export"]}]
    assert "job: export starts" in ann.ok("POST", f"{owner}/job", orphan, 400)["error_desc"]
    trained, exported = ann.ok("POST", f"{owner}/job", [{"actions": ["train"]}, {"actions": ["export"]}], 201)
    assert parents([trained, exported]) == [None, trained]
    # the parent may be of another model
    other = f"model/{ann.ready()}"
    body = {"job": first, "actions": ["evaluate"], "parent_job_type": "model", "parent_id": owner[6:]}
    (elsewhere,) = ann.ok("POST", f"{other}/job", body, 201)
    assert ann.ok("GET", f"{other}/job/{elsewhere}")["parent_id"] == first


def test_words_of_release_4_0_are_understood_by_all_and_said_to_its_own_clients(ann: V4, facade: Facade) -> None:
    model_id = ann.ready()
    old = ann.ok("GET", f"model/{model_id}")
    assert old["network_arch"] == "classification" and "convert" in old["actions"]
    assert "gen_trt_engine" not in old["actions"]
    schema = ann.ok("GET", f"model/{model_id}/specs/convert/schema")
    assert schema == ann.ok("GET", f"model/{model_id}/specs/gen_trt_engine/schema")
    (trained,) = ann.start(f"model/{model_id}", "train")
    jobs = ann.start(f"model/{model_id}", "export", "convert", parent=trained)
    assert [ann.ok("GET", f"model/{model_id}/job/{job}")["action"] for job in jobs] == ["export", "convert"]

    new = V4.of(facade.member(org=ann.member.org, user="bob", release="5.2"))
    seen = new.ok("GET", f"model/{model_id}")
    assert seen["network_arch"] == "classification_tf1" and "gen_trt_engine" in seen["actions"]
    assert seen["ptm"] == [] and old["ptm"] == ""
    assert new.ok("GET", f"model/{model_id}/job/{jobs[1]}")["action"] == "gen_trt_engine"
    for word in ("classification", "classification_tf1"):
        assert [item["id"] for item in new.ok("GET", f"model?arch={word}")] == [model_id]
        assert new.ok("PATCH", f"model/{model_id}", {"network_arch": word, "ptm": []})["ptm"] == []
    ann.member.finish(trained)
    assert ann.wait(f"model/{model_id}", trained, "Done")["result"]["graphical"][0]["values"] == [1.0, 0.5, 1 / 3]
    values = new.ok("GET", f"model/{model_id}/job/{trained}")["result"]["graphical"][0]["values"]
    assert values == {"1": 1.0, "2": 0.5, "3": 1 / 3}


def test_both_generations_show_the_same_things(ann: V4) -> None:
    model_id, dataset_id = ann.ready(), ann.dataset()
    (job_id,) = ann.start(f"model/{model_id}", "train")
    later = ann.member.client
    assert later.get(f"experiments/{model_id}").json()["encryption_key"] == "nvidia_tlt"
    assert later.get(f"datasets/{dataset_id}").json()["id"] == dataset_id
    assert ann.member.job(f"experiments/{model_id}", job_id)["status"] == "Pending"
    assert later.post(f"experiments/{model_id}/jobs/{job_id}:cancel").status_code == 200
    assert ann.wait(f"model/{model_id}", job_id, "Error")["action"] == "train"
    assert ann.member.job(f"experiments/{model_id}", job_id)["status"] == "Canceled"


def test_downloads_serve_head_and_ranges_and_files_by_name(ann: V4) -> None:
    owner = f"model/{ann.ready()}"
    (job_id,) = ann.start(owner, "train")
    path = f"{owner}/job/{job_id}"
    assert ann.client.head(f"{path}/download").status_code == 404
    listed = ann.ok("GET", f"{path}/list_files?retrieve_logs=True&retrieve_specs=False")
    assert listed == [f"logs/{job_id}.txt"]
    ann.member.finish(job_id)
    job = ann.wait(owner, job_id, "Done")
    head = ann.client.head(f"{path}/download")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "300000", b"")
    whole = ann.client.get(f"{path}/download").content
    assert hashlib.sha256(whole).hexdigest() == job["job_tar_stats"]["sha256_digest"]
    part = ann.client.get(f"{path}/download", headers={"Range": "bytes=299990-"})
    assert part.status_code == 206 and part.content == whole[299_990:]
    picked = ann.client.get(f"{path}/download_selective_files", params={"best_model": "True", "tar_files": "True"})
    with tarfile.open(fileobj=io.BytesIO(picked.content)) as tar:
        assert tar.getnames() == [f"{job_id}/train/model_epoch_002.safetensors"]
    log = ann.client.get(
        f"{path}/download_selective_files", params={"file_lists": [f"logs/{job_id}.txt"], "tar_files": "False"}
    )
    assert log.text.endswith("\nDone EOF\n")
    for name in ("../../token.key", "/etc/passwd"):
        refused = ann.client.get(f"{path}/download_selective_files", params={"file_lists": [name]})
        assert refused.status_code == 404


def test_login_by_the_path_gives_the_same_token_and_keeps_the_key_out_of_logs(
    facade: Facade, caplog: pytest.LogCaptureFixture
) -> None:
    key = facade.key("acme4", "ann", "4.0")
    granted = httpx.get(f"{facade.url}/api/v1/login/{key}")
    assert granted.status_code == 200 and set(granted.json()) == {"user_id", "token"}
    headers = {"Authorization": f"Bearer {granted.json()['token']}"}
    assert httpx.get(f"{facade.url}/api/v1/user/{granted.json()['user_id']}/model", headers=headers).json() == []
    refused = {httpx.get(f"{facade.url}/api/v1/login/{wrong}").text for wrong in (key[:-1], key + "x", "x", "%00")}
    assert len(refused) == 1 and json.loads(refused.pop())["error_code"] == 1
    assert httpx.get(f"{facade.url}/api/v1/login/{'x' * 1001}").status_code == 400
    assert httpx.post(f"{facade.url}/api/v1/login/{key}").status_code == 405
    assert key[3:] not in caplog.text


@pytest.fixture
def pieces() -> Iterator[tuple[bytes, bytes]]:
    yield image_tar(["cat"]), image_tar(["dog"])


def test_uploads_merge_and_train_waits_for_no_more_than_a_set(ann: V4, pieces: tuple[bytes, bytes]) -> None:
    dataset_id = ann.dataset()
    for piece in pieces:
        sent = ann.upload(dataset_id, piece)
        assert sent.status_code == 201 and sent.json()["message"] == "Data successfully uploaded"
    model_id = ann.model(train_datasets=[dataset_id])
    assert len(ann.start(f"model/{model_id}", "train")) == 1
    broken = ann.upload(dataset_id, b"no archive")
    assert broken.status_code == 400
    assert_fits(broken.json(), ERROR)
    in_use = ann.ok("DELETE", f"dataset/{dataset_id}", status=400)
    assert "Dataset in use" in in_use["error_desc"] and "model" in in_use["error_desc"]


def test_a_data_set_goes_with_its_jobs(ann: V4) -> None:
    dataset_id = ann.filled()
    pending, running = (ann.start(f"dataset/{dataset_id}", "convert")[0] for _ in range(2))
    ann.facade.prefect.move(running, "RUNNING")
    ann.wait(f"dataset/{dataset_id}", running, "Running")
    ann.ok("POST", f"dataset/{dataset_id}/specs/convert", {"gpus": 1}, 201)
    deleted = ann.ok("DELETE", f"dataset/{dataset_id}")
    assert {job["id"] for job in deleted["jobs"]} == {pending, running}
    ann.ok("GET", f"dataset/{dataset_id}", status=404)
    ended = ("CANCELLING", "CANCELLED")
    prefect = ann.facade.prefect
    poll(lambda: not prefect.exists(running) or prefect.run(running)["state_type"] in ended, "the end of the job", 30)
    poll(lambda: not prefect.exists(pending), "the end of the other", 30)


def test_pretrained_models_are_listed_and_known_by_the_key_that_they_lack(
    prefect_server: Prefect, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file({"fc.bias": np.zeros(2, np.float32)}, weights)
    settings = ApiSettings(home=tmp_path / "yard", prefect_api_url=prefect_server.api_url, free_min_bytes=0)
    storage = ArtifactStorage(url=settings.storage_url)
    base = add(storage, weights, network="classification_tf1", name="pretrained_classification", version="resnet18")
    for facade in serve(settings, prefect_server):
        old = V4.of(facade.member(release="4.0"))
        model_id = old.model()
        found = {item["id"]: item for item in old.ok("GET", "model?sort=name-ascending")}
        assert set(found) == {model_id, str(base.id)}
        (ptm,) = [item for item in found.values() if "encryption_key" not in item]
        assert ptm["ngc_path"].endswith("pretrained_classification:resnet18")
        assert ptm["read_only"] and ptm["public"] and ptm["network_arch"] == "classification"
        assert old.ok("GET", f"model/{base.id}") == ptm
        assert_fits({**ptm, "encryption_key": ""}, MODEL)
        assert old.ok("PATCH", f"model/{model_id}", {"ptm": str(base.id)})["ptm"] == str(base.id)
        new = V4.of(facade.member(org=old.member.org, user="bob", release="5.0"))
        assert new.ok("GET", f"model/{model_id}")["ptm"] == [str(base.id)]
        assert new.ok("PATCH", f"model/{model_id}", {"ptm": []})["ptm"] == []
        assert old.ok("PATCH", f"model/{model_id}", {"ptm": ""})["ptm"] == ""

"""Publishing: what of a job gets into MLflow's registry, and what comes out of it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, Member, Prefect, serve
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from support import mlflow_served


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        mlflow_served(tmp_path_factory.mktemp("mlflow")) as url,
        httpx.Client(base_url=f"{url}/api/2.0/", timeout=30) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def registry_facade(
    prefect_server: Prefect, mlflow: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Facade]:
    settings = ApiSettings(
        home=tmp_path_factory.mktemp("registry"),
        prefect_api_url=prefect_server.api_url,
        mlflow_url=str(mlflow.base_url).removesuffix("/api/2.0/"),
        free_min_bytes=0,
    )
    yield from serve(settings, prefect_server)


def call(mlflow: httpx.Client, method: str, path: str, **body: Any) -> dict[str, Any]:
    answer = mlflow.request(method, path, **({"params": body} if method == "GET" else {"json": body}))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def trained(member: Member, mlflow: httpx.Client) -> tuple[str, str]:
    """Return the paths of an experiment and of a train job of it that is done, its MLflow run and model written."""
    owner = f"experiments/{member.ready()}"
    job_id = member.start(owner, "train")
    made = call(mlflow, "POST", "mlflow/experiments/create", name=f"{member.org}/{uuid4()}")["experiment_id"]
    run = call(mlflow, "POST", "mlflow/runs/create", experiment_id=made)["run"]["info"]
    logged = call(mlflow, "POST", "mlflow/logged-models", experiment_id=made, name="train", source_run_id=run["run_id"])
    folder = logged["model"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/").strip("/")
    for name, content in (
        ("MLmodel", b"path: artifacts/model_epoch_002.safetensors\n"),
        ("artifacts/model_epoch_002.safetensors", b"weights of epoch 2"),
        ("python_model.py", b"x = 1\n"),
    ):
        mlflow.put(f"mlflow-artifacts/artifacts/{folder}/{name}", content=content).raise_for_status()
    member.facade.prefect.move(job_id, "RUNNING")
    member.finish(job_id, mlflow_run_id=run["run_id"])
    member.wait(owner, job_id, "Done")
    return owner, f"{owner}/jobs/{job_id}"


def versions(mlflow: httpx.Client, name: str) -> list[dict[str, Any]]:
    found = call(mlflow, "GET", "mlflow/model-versions/search", filter=f"name = '{name}'")
    return list(found.get("model_versions", []))


def publish(member: Member, job: str, **body: Any) -> httpx.Response:
    return member.client.post(f"{job}:publish_model", content=json.dumps(body))


def test_the_best_checkpoint_is_published_as_it_is_logged(registry_facade: Facade, mlflow: httpx.Client) -> None:
    cat = registry_facade.member(user="cat", root="orgs")
    owner, job = trained(cat, mlflow)
    cat.client.patch(owner, content='{"name": "My digits"}')
    # 4.15 of the document: the body of a job, the id of the job as the answer
    answer = publish(cat, job, action="train", description="mine")
    assert answer.status_code == 201 and answer.json() == job.rpartition("/")[2]
    (version,) = versions(mlflow, f"{cat.org}.My digits")
    assert version["description"] == "mine" and "/published/" not in version["source"]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["trainyard.file"] == "train/model_epoch_002.safetensors" and tags["trainyard.org"] == cat.org
    # what is in the registry is needed
    refused = cat.client.delete(job)
    assert refused.status_code == 400 and "registered model" in refused.json()["error_desc"]
    assert cat.client.delete(f"{job}:remove_published_model").status_code == 200
    assert cat.client.delete(job).status_code == 200


def test_another_checkpoint_is_put_into_the_frame_of_the_logged_model(
    registry_facade: Facade, mlflow: httpx.Client
) -> None:
    ben = registry_facade.member(user="ben", release="5.5", root="orgs")
    owner, job = trained(ben, mlflow)
    ben.client.patch(owner, content='{"checkpoint_choose_method": "latest_model"}')
    said = publish(ben, job, display_name="Digits", team_name="vision")
    name = f"{ben.org}.vision.Digits"
    assert said.status_code == 201 and said.json() == {"message": f"Published as version 1 of {name}."}
    (version,) = versions(mlflow, name)
    folder = version["source"].removeprefix("mlflow-artifacts:/").strip("/")

    def content(path: str) -> bytes:
        return mlflow.get(f"mlflow-artifacts/artifacts/{folder}/{path}").content

    assert content("MLmodel") == b"path: artifacts/model_epoch_003.safetensors\n"
    assert content("artifacts/model_epoch_003.safetensors") == b"weights of epoch 3"
    assert content("python_model.py") == b"x = 1\n"
    again = publish(ben, job, display_name="Digits", team_name="vision")
    assert again.status_code == 409 and "Remove" in again.json()["error_desc"]
    assert ben.client.delete(f"{job}:remove_published_model?team_name=other").status_code == 404
    removed = ben.client.delete(f"{job}:remove_published_model?team_name=vision").json()
    assert removed == {"message": f"Removed version 1 of {name}."}
    assert versions(mlflow, name) == []
    assert mlflow.get(f"mlflow-artifacts/artifacts/{folder}/MLmodel").status_code == 404
    assert ben.client.delete(f"{job}:remove_published_model").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"display_name": "../x"},
        {"display_name": "a/b"},
        {"display_name": "a:b"},
        {"display_name": "x' OR '1"},
        {"display_name": "x" * 201},
        {"display_name": 5},
        {"display_name": "x", "team_name": "a.b"},
        {"display_name": "x", "team_name": "x" * 101},
        {"display_name": "x", "description": "x" * 1001},
    ],
)
def test_names_that_the_registry_does_not_take_are_refused(
    registry_facade: Facade, mlflow: httpx.Client, body: dict[str, Any]
) -> None:
    member = registry_facade.member(user="names")
    job = trained(member, mlflow)[1]
    assert publish(member, job, **body).status_code == 400
    listed = call(mlflow, "GET", "mlflow/registered-models/search", filter=f"name LIKE '{member.org}.%'")
    assert listed.get("registered_models", []) == []


def test_what_has_no_model_is_not_published(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    running = ann.start(owner, "train")
    assert publish(ann, f"{owner}/jobs/{running}").status_code == 404
    done = ann.start(owner, "train")
    ann.finish(done)
    ann.wait(owner, done, "Done")
    said = publish(ann, f"{owner}/jobs/{done}")
    assert said.status_code == 404 and "MLflow" in said.json()["error_desc"]
    assert ann.client.delete(f"{owner}/jobs/{done}:remove_published_model").status_code == 404
    assert ann.facade.storage.exists(layout.job(ann.org, done))


def test_a_yard_without_mlflow_says_so(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.finish(job_id, mlflow_run_id="0" * 32)
    ann.wait(owner, job_id, "Done")
    said = publish(ann, f"{owner}/jobs/{job_id}", display_name="x")
    assert said.status_code == 501 and "MLflow" in said.json()["error_desc"]

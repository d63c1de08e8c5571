"""A job seen from all its sides: REST, Prefect and MLflow know the same one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest
from support import QUICK_TRAIN, Chain, Yard, poll, wait_for_job


def prefect(yard: Yard, method: str, path: str, body: object = None) -> Any:
    response = httpx.request(method, f"{yard.prefect_url}/api/{path}", json=body, timeout=30)
    assert response.is_success, response.text
    return response.json()


@pytest.fixture
def tracking(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(tracking_uri=yard.mlflow_url)


def run_of(tracking: mlflow.MlflowClient, job_id: str) -> mlflow.entities.Run:
    (run,) = tracking.search_runs(
        [e.experiment_id for e in tracking.search_experiments()], f"tags.`trainyard.job_id` = '{job_id}'"
    )
    return run


def test_every_action_is_deployed_with_a_typed_form(yard: Yard) -> None:
    deployments = prefect(yard, "POST", "deployments/filter", {})
    flows = {f["id"]: f["name"] for f in prefect(yard, "POST", "flows/filter", {})}
    names = {f"{flows[d['flow_id']]}/{d['name']}": d for d in deployments}
    for action in ("train", "evaluate", "prune", "retrain", "export", "gen_trt_engine", "inference"):
        form = names[f"{action}/classification_pyt"]["parameter_openapi_schema"]
        spec = form["properties"]["spec"]
        assert "$ref" in spec or "properties" in spec or "allOf" in spec
        assert form["required"] == ["org", "experiment_id"]
    assert "TrainSpec" in names["train/classification_pyt"]["parameter_openapi_schema"]["definitions"]
    assert {"convert/image_classification", "dataset_convert/image_classification"} <= names.keys()
    assert "train_and_compress/classification_pyt" in names


def test_a_job_is_a_flow_run_with_a_readable_name_and_tags(yard: Yard, chain: Chain) -> None:
    run = prefect(yard, "GET", f"flow_runs/{chain.train}")
    assert run["name"].startswith("train classification_pyt ")
    assert {
        "trainyard.org:acme",
        "trainyard.action:train",
        "trainyard.network:classification_pyt",
        f"trainyard.experiment:{chain.experiment}",
    } <= set(run["tags"])
    assert f"trainyard.parent:{chain.train}" in prefect(yard, "GET", f"flow_runs/{chain.export}")["tags"]


def test_a_job_leaves_progress_tables_pictures_and_a_link_in_prefect(yard: Yard, chain: Chain) -> None:
    found = prefect(yard, "POST", "artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [chain.train]}}})
    by_key = {artifact["key"].removeprefix("train-classification-pyt-"): artifact for artifact in found}
    assert by_key["progress"]["type"] == "progress"
    assert float(by_key["progress"]["data"]) == 100.0
    metrics = {row["metric"]: row["value"] for row in json.loads(by_key["metrics"]["data"])}
    assert 0 <= float(metrics["accuracy_top-1"]) <= 1
    assert [row["epoch"] for row in json.loads(by_key["epochs"]["data"])] == [1, 2]
    assert chain.job(chain.train)["id"] == chain.train
    assert yard.mlflow_url in by_key["mlflow"]["data"]
    for picture in ("confusion", "samples"):
        assert by_key[picture]["type"] == "image"
        assert by_key[picture]["data"].startswith("data:image/png;base64,")


def test_the_mlflow_run_tells_what_went_in_and_what_came_out(chain: Chain, tracking: mlflow.MlflowClient) -> None:
    run = run_of(tracking, chain.train)
    assert run.info.status == "FINISHED"
    assert tracking.get_experiment(run.info.experiment_id).name == f"acme/{chain.experiment}"
    assert run.data.params["model.backbone.type"] == "resnet10t"
    assert run.data.params["train.train_config.runner.max_epochs"] == "2"
    assert [m.step for m in tracking.get_metric_history(run.info.run_id, "accuracy_top-1")] == [1, 2]
    assert {i.dataset.name for i in run.inputs.dataset_inputs} == {"train", "eval"}
    assert "prefect-trainyard" in run.data.tags["mlflow.source.name"]
    files = {f.path for f in tracking.list_artifacts(run.info.run_id)}
    assert "environment.txt" in files


def test_the_model_in_mlflow_has_a_signature_and_predicts(
    chain: Chain, tracking: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.tracking_uri)
    for job in (chain.train, chain.export):
        run = run_of(tracking, job)
        (output,) = run.outputs.model_outputs
        model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
        assert model.metadata.signature.inputs.inputs[0].shape == (-1, 3, 32, 32)
        logits = model.predict(np.zeros((2, 3, 32, 32), dtype=np.float32))
        assert np.asarray(next(iter(logits.values())) if isinstance(logits, dict) else logits).shape == (2, 10)


def test_lineage_leads_from_the_exported_model_to_the_data_by_ids_alone(
    chain: Chain, tracking: mlflow.MlflowClient
) -> None:
    export = run_of(tracking, chain.export)
    train = tracking.get_run(export.data.tags["mlflow.parentRunId"])
    assert train.data.tags["trainyard.job_id"] == chain.train == chain.job(chain.export)["parent_id"]
    digests = {i.dataset.name: {t.key: t.value for t in i.tags} for i in train.inputs.dataset_inputs}
    source = next(i.dataset.source for i in train.inputs.dataset_inputs if i.dataset.name == "train")
    assert chain.train_set in source
    assert re.fullmatch("[0-9a-f]{64}", digests["train"]["trainyard.sha256"])


def test_a_run_of_prefects_own_command_line_is_the_same_job_in_rest(yard: Yard, chain: Chain, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": f"{yard.prefect_url}/api", "PREFECT_HOME": str(tmp_path)}
    started = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("prefect")), "deployment", "run", "convert/image_classification"),
            *("-p", "org=acme", "-p", f"dataset_id={chain.train_set}"),
        ],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    match = re.search(r"UUID: ([0-9a-f-]{36})", started.stdout)
    assert match, started.stdout
    path = f"datasets/{chain.train_set}/jobs/{match[1]}"
    poll(lambda: chain.client.get(path).status_code == 200, "the job in REST", 30)
    job = wait_for_job(chain.client, path)
    assert job["status"] == "Done", job
    assert job["id"] == match[1]
    assert job["action"] == "convert"
    assert job["id"] in [j["id"] for j in chain.client.get(f"datasets/{chain.train_set}/jobs").json()]


def test_a_run_from_the_form_of_the_ui_is_the_same_job_in_rest(yard: Yard, chain: Chain) -> None:
    deployment = prefect(yard, "GET", "deployments/name/train/classification_pyt")
    # What the form sends: the parameters, typed; the rest is left to defaults.
    body = {"parameters": {"org": "acme", "experiment_id": chain.experiment, "spec": QUICK_TRAIN}}
    run = prefect(yard, "POST", f"deployments/{deployment['id']}/create_flow_run", body)
    path = f"experiments/{chain.experiment}/jobs/{run['id']}"
    poll(lambda: chain.client.get(path).status_code == 200, "the job in REST", 30)
    assert wait_for_job(chain.client, path)["status"] == "Done"


def test_the_form_refuses_values_out_of_bounds(yard: Yard, chain: Chain) -> None:
    deployment = prefect(yard, "GET", "deployments/name/train/classification_pyt")
    spec = {"train": {"train_config": {"runner": {"max_epochs": 0}}}}
    body = {"parameters": {"org": "acme", "experiment_id": chain.experiment, "spec": spec}}
    answer = httpx.post(f"{yard.prefect_url}/api/deployments/{deployment['id']}/create_flow_run", json=body)
    assert answer.status_code == 409
    assert "minimum" in answer.text


@pytest.mark.slow
def test_a_pipeline_makes_one_job_per_stage(yard: Yard, chain: Chain) -> None:
    deployment = prefect(yard, "GET", "deployments/name/train_and_compress/classification_pyt")
    body = {
        "parameters": {
            "org": "acme",
            "experiment_id": chain.experiment,
            "train_spec": QUICK_TRAIN,
            "retrain_spec": QUICK_TRAIN,
        }
    }
    run = prefect(yard, "POST", f"deployments/{deployment['id']}/create_flow_run", body)

    def ended() -> dict[str, Any] | None:
        shown: dict[str, Any] = prefect(yard, "GET", f"flow_runs/{run['id']}")
        return shown if shown["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    assert poll(ended, "the pipeline", 240, 0.5)["state_type"] == "COMPLETED"
    stages = ("train", "prune", "retrain", "evaluate", "export", "gen_trt_engine")

    def all_there() -> list[dict[str, Any]] | None:
        jobs = chain.client.get(f"experiments/{chain.experiment}/jobs").json()[: len(stages)]
        return jobs if sorted(j["action"] for j in jobs) == sorted(stages) else None

    assert {job["status"] for job in poll(all_there, "the stages in REST", 30)} == {"Done"}

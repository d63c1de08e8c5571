"""Notebook sequence A with the unmodified client nvidia-tao-client 5.2.0, from login to delete."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import QUICK_TRAIN, Yard, poll

NETWORK = "classification_pyt"


@dataclass(frozen=True)
class TaoClient:
    """The client as a person runs it: a command, its options, what it prints."""

    command: Path
    home: Path
    base_url: str

    def __call__(self, *arguments: str, group: str | None = NETWORK) -> str:
        words = [str(self.command), *([group.replace("_", "-")] if group else []), *arguments]
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "BASE_URL": self.base_url}
        run = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
        assert run.returncode == 0, f"{' '.join(words)}\n{run.stdout}\n{run.stderr}"
        return run.stdout.strip()


@pytest.fixture(scope="module")
def tao(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> TaoClient:
    """The client in an environment of its own: it is proprietary and never part of this project."""
    folder = tmp_path_factory.mktemp("tao52")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "nvidia-tao-client==5.2.0"]
    subprocess.run(pip, check=True, timeout=280)
    (folder / "home").mkdir()
    return TaoClient(folder / "venv/bin/tao-client", folder / "home", f"{yard.api_url}/api/v1")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, tao: TaoClient, digits: Path, tmp_path: Path) -> None:
    granted = json.loads(tao("login", "--ngc-api-key", yard.make_key("acme52", "notebook", "5.2"), group=None))
    assert granted["token"] in (tao.home / ".tao" / "config").read_text()

    def dataset(format: str, *archives: str) -> str:
        created = tao("dataset-create", "--dataset_type", "image_classification", "--dataset_format", format)
        update = json.dumps({"name": archives[0], "description": "digits"})
        patched = tao("patch-artifact-metadata", "--id", created, "--job_type", "dataset", "--update_info", update)
        assert json.loads(patched)["name"] == archives[0]
        for archive in archives:
            said = tao("dataset-upload", "--id", created, "--path", str(digits / f"{archive}.tar.gz"))
            assert said == "Data successfully uploaded"
        return created

    train_set, eval_set = dataset(NETWORK, "train_1", "train_2"), dataset(NETWORK, "eval")
    test_set = dataset("raw", "test_raw")
    listed = ast.literal_eval(tao("list-artifacts", "--job_type", "dataset"))
    assert {item["id"] for item in listed} == {train_set, eval_set, test_set}

    model = tao("model-create", "--network_arch", NETWORK, "--encryption_key", "nvidia_tlt")
    of_model = ("--id", model, "--job_type", "model")
    models = ast.literal_eval(tao("list-artifacts", "--job_type", "model"))
    assert all(isinstance(item["ngc_path"], str) for item in models)
    chosen = [
        item["id"] for item in models if "encryption_key" not in item and item["ngc_path"].endswith("fan_hybrid_tiny")
    ]
    roles = {"train_datasets": [train_set], "eval_dataset": eval_set, "inference_dataset": test_set}
    update = json.dumps({**roles, "calibration_dataset": train_set, "ptm": chosen})
    assigned = json.loads(tao("patch-artifact-metadata", *of_model, "--update_info", update))
    assert assigned["train_datasets"] == [train_set] and assigned["ptm"] == chosen
    assert json.loads(tao("get-metadata", *of_model)) == assigned
    assert isinstance(json.loads(tao("model-automl-defaults", "--id", model)), list)

    def save(action: str, changes: dict[str, Any] | None = None) -> None:
        spec = {**json.loads(tao("get-spec", *of_model, "--action", action)), **(changes or {}), "gpus": 1}
        assert json.loads(tao("post-spec", *of_model, "--action", action, "--specs", json.dumps(spec))) == spec

    rest = httpx.Client(
        base_url=f"{tao.base_url}/user/{granted['user_id']}/model/{model}/job/",
        headers={"Authorization": f"Bearer {granted['token']}"},
        timeout=60,
    )

    def status(job: str) -> dict[str, Any]:
        return dict(json.loads(tao("get-action-status", *of_model, "--job", job)))

    def done(job: str) -> dict[str, Any]:
        # a process of the client for every look would take the cores from the job
        poll(lambda: rest.get(job).json()["status"] in ("Done", "Error"), job, 240, 0.2)
        shown = status(job)
        assert shown["status"] == "Done", shown
        return shown

    def run(action: str, parent: str | None = None) -> str:
        given = ["--job", parent, "--parent_job_type", "model", "--parent_id", model] if parent else []
        return tao("run-action", *of_model, "--action", action, *given)

    def finished(action: str, parent: str, changes: dict[str, Any] | None = None) -> str:
        save(action, changes)
        job = run(action, parent)
        done(job)
        return job

    def epochs(number: int) -> dict[str, Any]:
        return {**QUICK_TRAIN, "train": {"train_config": {"runner": {"max_epochs": number}}}}

    save("train", epochs(8))
    trained = run("train")
    of_job = ("--id", model, "--job", trained, "--job_type", "model")
    files = json.loads(tao("list-job-files", *of_job, "--retrieve_logs", "True", "--retrieve_specs", "True"))
    assert f"logs/{trained}.txt" in files

    # its cancel and resume call methods that it does not have, so the notebooks of its time sent them by hand
    poll(lambda: (rest.get(trained).json()["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.2)
    assert rest.post(f"{trained}/cancel").status_code == 200
    poll(lambda: rest.get(trained).json()["status"] == "Error", "the stop", 60, 0.2)
    assert rest.post(f"{trained}/resume").status_code == 200
    curves = done(trained)["result"]["graphical"]
    assert sorted(map(int, next(c for c in curves if c["metric"] == "accuracy_top-1")["values"])) == list(range(1, 9))

    log = Path(tao("get-log-file", *of_job, "--workdir", str(tmp_path)))
    assert log.read_text().splitlines()[-1] == "Done EOF"
    choice = ("--file_lists", "[]", "--best_model", "False", "--latest_model", "True", "--tar_files", "True")
    packed = tao("download-selective-files", *of_job, "--workdir", str(tmp_path), *choice)
    with tarfile.open(packed) as tar:
        assert any(name.endswith("008.safetensors") for name in tar.getnames())
    Path(packed).unlink()
    head = rest.head(f"{trained}/download")
    assert int(head.headers["content-length"]) == status(trained)["job_tar_stats"]["file_size"]

    evaluated = finished("evaluate", trained)
    (kpi,) = [k for k in status(evaluated)["result"]["kpi"] if k["metric"] == "accuracy_top-1"]
    assert next(iter(kpi["values"].values())) == kpi["value"] > 0.9
    pruned = finished("prune", trained)
    retrained = finished("retrain", pruned, epochs(2))
    finished("evaluate", retrained)
    exported = finished("export", retrained)
    engine = finished("gen_trt_engine", exported, {"gen_trt_engine": {"tensorrt": {"data_type": "fp16"}}})
    finished("inference", retrained)
    predicted = finished("inference", engine)
    # of the whole jobs it gets a small one: it calls fsync for every kilobyte
    of_prediction = ("--id", model, "--job", predicted, "--job_type", "model", "--workdir", str(tmp_path))
    archive = Path(tao("download-entire-job", *of_prediction))
    whole = archive.read_bytes()
    assert len(whole) == status(predicted)["job_tar_stats"]["file_size"]
    archive.write_bytes(whole[:1000])  # a download that broke off
    tao("download-entire-job", *of_prediction)
    assert archive.read_bytes() == whole
    with tarfile.open(archive) as tar:
        assert all(name.startswith(f"{predicted}/") for name in tar.getnames())
        tar.extractall(tmp_path / "predicted", filter="data")
    (predictions,) = (tmp_path / "predicted").rglob("predictions.csv")
    with predictions.open() as stream:
        assert len(list(csv.DictReader(stream))) == 270

    tao("model-delete", "--id", model)
    for dataset_id in (train_set, eval_set, test_set):
        tao("dataset-delete", "--id", dataset_id)
    assert ast.literal_eval(tao("list-artifacts", "--job_type", "dataset")) == []

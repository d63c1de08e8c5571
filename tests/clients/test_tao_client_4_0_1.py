"""Notebook sequence A with the unmodified client nvidia-tao-client 4.0.1.

Its commands create, show defaults, start, cancel and resume; what they have no words for, the notebooks of that time
did with `requests`, as is done here.
"""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from clients.tao_client import TaoClient, ok, upload
from support import Yard, poll

TYPE = "image_classification"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, tao: TaoClient, digits: Path, tmp_path: Path) -> None:
    rest = tao.login(yard.make_key("acme401", "notebook", release="4.0"))

    train_set = upload(tao, rest, TYPE, "default", digits / "train_1.tar.gz")
    eval_set = upload(tao, rest, TYPE, "default", digits / "eval.tar.gz")
    test_set = upload(tao, rest, TYPE, "raw", digits / "test_raw.tar.gz")
    assert {item["id"] for item in ok(rest.get("dataset"))} == {train_set, eval_set, test_set}

    model = tao.network("model-create", "--network_arch", "classification", "--encryption_key", "nvidia_tlt")
    pretrained = [item for item in ok(rest.get("model")) if "encryption_key" not in item]
    assert all(isinstance(item["ngc_path"], str) for item in ok(rest.get("model")))
    roles = {"train_datasets": [train_set], "eval_dataset": eval_set, "inference_dataset": test_set}
    assigned = ok(rest.patch(f"model/{model}", content=json.dumps({**roles, "calibration_dataset": train_set})))
    assert assigned["train_datasets"] == [train_set] and assigned["network_arch"] == "classification"
    chosen = [item["id"] for item in pretrained if item["ngc_path"].endswith("pretrained_classification:resnet18")]
    ok(rest.patch(f"model/{model}", content=json.dumps({"ptm": chosen})))
    assert isinstance(json.loads(tao.network("model-automl-defaults", "--id", model)), list)

    def save(action: str, changes: dict[str, Any] | None = None) -> None:
        defaults = json.loads(tao.network(f"model-{action}-defaults", "--id", model))
        spec = {**defaults, **(changes or {}), "gpus": 1}
        assert ok(rest.post(f"model/{model}/specs/{action}", content=json.dumps(spec)), 201) == spec

    def job(job_id: str) -> dict[str, Any]:
        return dict(ok(rest.get(f"model/{model}/job/{job_id}")))

    def done(job_id: str) -> dict[str, Any]:
        shown = poll(lambda: j if (j := job(job_id))["status"] in ("Done", "Error") else None, job_id, 240, 0.3)
        assert shown["status"] == "Done", shown
        return shown

    def run(action: str, parent: str) -> str:
        started = tao.network(f"model-{action}", "--id", model, "--job", parent)
        done(started)
        return started

    def epochs(number: int) -> dict[str, Any]:
        quick = {"n_workers": 0, "enable_random_crop": False, "disable_horizontal_flip": True}
        return {
            "model_config": {"arch": "resnet", "n_layers": 10, "input_image_size": "3,32,32"},
            "train_config": {"n_epochs": number, **quick},
        }

    save("train", epochs(8))
    trained = tao.network("model-train", "--id", model)
    poll(lambda: (job(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.2)
    assert tao.network("model-job-cancel", "--id", model, "--job", trained) == trained
    stopped = poll(lambda: j if (j := job(trained))["status"] == "Error" else None, "the stop", 60, 0.2)
    assert 2 <= stopped["result"]["epoch"] < 8
    assert tao.network("model-job-resume", "--id", model, "--job", trained) == trained
    result = done(trained)["result"]
    (curve,) = [c for c in result["graphical"] if c["metric"] == "accuracy_top-1"]
    assert result["epoch"] == 8 and len(curve["values"]) == 8

    evaluated = run("evaluate", trained)
    (kpi,) = [k for k in job(evaluated)["result"]["kpi"] if k["metric"] == "accuracy_top-1"]
    assert kpi["value"] > 0.8

    # prune, retrain and evaluate go out in one request
    save("prune")
    save("retrain", epochs(2))
    save("evaluate")
    body = {"job": trained, "actions": ["prune", "retrain", "evaluate"]}
    pruned, retrained, again = ok(rest.post(f"model/{model}/job", content=json.dumps(body)), 201)
    assert [done(job_id)["parent_id"] for job_id in (pruned, retrained, again)] == [trained, pruned, retrained]

    exported = run("export", trained)
    save("convert", {"data_type": "fp16"})
    engine = run("convert", exported)
    assert job(engine)["action"] == "convert"
    run("inference", trained)
    predicted = run("inference", engine)
    with rest.stream("GET", f"model/{model}/job/{predicted}/download") as answer:
        assert answer.status_code == 200
        (tmp_path / "predicted.tar.gz").write_bytes(answer.read())
    with tarfile.open(tmp_path / "predicted.tar.gz") as tar:
        assert all(name.startswith(f"{predicted}/") for name in tar.getnames())
        tar.extractall(tmp_path, filter="data")
    (predictions,) = tmp_path.rglob("predictions.csv")
    with predictions.open() as stream:
        assert len(list(csv.DictReader(stream))) == 270

    assert ok(rest.delete(f"model/{model}"))["id"] == model
    for dataset_id in (train_set, eval_set, test_set):
        assert ok(rest.delete(f"dataset/{dataset_id}"))["id"] == dataset_id
    assert ok(rest.get("dataset")) == []

"""Notebook sequence B with the unmodified client nvidia-tao-client 4.0.1: DetectNet_v2 on KITTI data."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clients.tao_client import TaoClient, ok, upload
from support import ROOT, Yard, poll

TYPE = "object_detection"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of digits in scenes: train.tar.gz and eval.tar.gz, and raw.tar.gz with pictures alone."""
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "digit_scenes.py")
    options = ("--format", "kitti", "--pictures", "40", "--digits", "0,1")
    subprocess.run([sys.executable, script, str(folder), *options], check=True, capture_output=True)
    with tarfile.open(folder / "raw.tar.gz", "w:gz") as tar:
        tar.add(folder / "eval/images", arcname="images")
    return folder


def shortened(train: dict[str, Any]) -> dict[str, Any]:
    """Change what the notebook changes in the spec, and what makes the training short."""
    train["gpus"] = 1
    train["training_config"] |= {"num_epochs": 6, "batch_size_per_gpu": 4}
    train["dataset_config"]["workers"] = 0
    train["model_config"]["arch"] = "test_resnet"
    train["augmentation_config"] |= {"output_width": 96, "output_height": 96}
    return train


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, tao: TaoClient, scenes: Path, tmp_path: Path) -> None:
    tao = replace(tao, group="detectnet-v2")
    rest = tao.login(yard.make_key("acme401b", "notebook", release="4.0"))
    sets = [upload(tao, rest, TYPE, "kitti", scenes / f"{name}.tar.gz") for name in ("train", "eval")]
    test_set = upload(tao, rest, TYPE, "raw", scenes / "raw.tar.gz")

    def done(path: str) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            shown = dict(ok(rest.get(path)))
            return shown if shown["status"] in ("Done", "Error") else None

        ended: dict[str, Any] = poll(read, path, 240, 0.3)
        assert ended["status"] == "Done", ended
        return ended

    for dataset in sets:
        spec = json.loads(tao.network("dataset-convert-defaults", "--id", dataset, "--action", "convert"))
        spec["kitti_config"]["image_extension"] = ".png"
        ok(rest.post(f"dataset/{dataset}/specs/convert", content=json.dumps(spec)), 201)
        job = tao.network("dataset-convert", "--id", dataset, "--action", "convert")
        done(f"dataset/{dataset}/job/{job}")

    model = tao.network("model-create", "--network_arch", "detectnet_v2", "--encryption_key", "tlt_encode")
    roles = {"train_datasets": [sets[0]], "eval_dataset": sets[1], "inference_dataset": test_set}
    ok(rest.patch(f"model/{model}", content=json.dumps({**roles, "calibration_dataset": sets[0], "ptm": []})))
    assert json.loads(tao.network("model-automl-defaults", "--id", model))

    def save(action: str, change: Any = lambda spec: spec) -> None:
        spec = change(json.loads(tao.network(f"model-{action}-defaults", "--id", model)))
        assert ok(rest.post(f"model/{model}/specs/{action}", content=json.dumps(spec)), 201) == spec

    def run(action: str, *parent: str) -> str:
        job = tao.network(f"model-{action}", "--id", model, *(("--job", *parent) if parent else ()))
        done(f"model/{model}/job/{job}")
        return job

    save("train", shortened)
    trained = tao.network("model-train", "--id", model)
    path = f"model/{model}/job/{trained}"
    poll(lambda: (ok(rest.get(path))["result"].get("epoch") or 0) >= 2, "two epochs", 180, 0.2)
    tao.network("model-job-cancel", "--id", model, "--job", trained)
    poll(lambda: ok(rest.get(path))["status"] == "Error", "the stop", 60, 0.2)
    tao.network("model-job-resume", "--id", model, "--job", trained)
    (curve,) = [c for c in done(path)["result"]["graphical"] if c["metric"] == "mAP50"]
    assert len(curve["values"]) == 6

    run("evaluate", trained)
    save("prune", lambda spec: {**spec, "pruning_threshold": 0.7})
    pruned = run("prune", trained)
    save("retrain", shortened)
    retrained = run("retrain", pruned)
    run("evaluate", retrained)
    exported = run("export", retrained)
    save("convert", lambda spec: {**spec, "data_type": "int8"})
    engine = run("convert", exported)
    run("inference", retrained)
    predicted = run("inference", engine)
    with rest.stream("GET", f"model/{model}/job/{predicted}/download") as answer:
        assert answer.status_code == 200
        (tmp_path / "predicted.tar.gz").write_bytes(answer.read())
    with tarfile.open(tmp_path / "predicted.tar.gz") as tar:
        assert sum("/labels/" in name and name.endswith(".txt") for name in tar.getnames()) == 8

    assert ok(rest.delete(f"model/{model}"))["id"] == model
    for dataset in (*sets, test_set):
        assert ok(rest.delete(f"dataset/{dataset}"))["id"] == dataset

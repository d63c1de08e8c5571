"""Notebook sequence C with the unmodified client nvidia-tao-client 5.3.0: segmentation, from login to delete."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from clients.nvtl import Nvtl, create_experiment, upload
from support import ROOT, Yard, poll

TYPE = "semantic_segmentation"
KEYS = {"unet": "tlt_encode", "segformer": "nvidia_tao"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "scenes.py")
    subprocess.run([sys.executable, script, str(folder), "--size", "32"], check=True, capture_output=True)
    return folder


def shortened(network: str, train: dict[str, Any]) -> dict[str, Any]:
    """Change what the notebook changes in the spec, and what makes the training short."""
    train["gpus"] = 1
    if network == "unet":
        train["training_config"] |= {"epochs": 12, "batch_size": 4}
        train["model"] |= {"arch": "test_resnet", "decoder_channels": 64}
        train["dataset_config"]["workers"] = 0
    else:
        train["train"] |= {"max_iters": 96, "num_rounds": 8, "num_gpus": 1}
        train["dataset"] |= {"batch_size": 4, "workers": 0}
    return train


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", KEYS)
def test_a_whole_notebook(yard: Yard, nvtl: Nvtl, scenes: Path, network: str, tmp_path: Path) -> None:
    nvtl("login", "--ngc-api-key", yard.make_key("acme", network, release="5.3"))
    nvtl = nvtl.of(network)
    train_set = upload(nvtl, TYPE, "unet", scenes / "train_1.tar.gz", scenes / "train_2.tar.gz")
    eval_set = upload(nvtl, TYPE, "unet", scenes / "eval.tar.gz")
    assert {train_set, eval_set} <= {item["id"] for item in nvtl.literal("list-datasets")}

    notebook = create_experiment(nvtl, KEYS[network])
    notebook.patch(
        train_datasets=[train_set],
        eval_dataset=eval_set,
        inference_dataset=eval_set,
        calibration_dataset=train_set,
        docker_env_vars={},
        checkpoint_choose_method="best_model",
    )
    notebook.patch(base_experiment=[])
    assert nvtl.literal("model-automl-defaults", "--id", notebook.id)

    train = shortened(network, notebook.spec("train"))
    trained = notebook.run("train", train)
    poll(lambda: (notebook.status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.3)
    job = ("--id", notebook.id, "--job", trained)
    nvtl("job-cancel", *job, "--job_type", "experiment")
    assert notebook.wait(trained)["status"] == "Canceled"
    nvtl("job-resume", *job, "--specs", json.dumps(train))
    done = notebook.wait(trained)
    assert done["status"] == "Done", done
    curve = next(g for g in done["result"]["graphical"] if g["metric"] == "mIoU")
    assert sorted(map(int, curve["values"])) == list(range(1, 13 if network == "unet" else 9))

    shown = ("--retrieve_logs", "True", "--retrieve_specs", "True")
    files = nvtl.literal("list-job-files", *job, "--job_type", "experiment", *shown)
    assert f"logs/{trained}.txt" in files
    download = ("download-entire-job", "--id", notebook.id, "--job_type", "experiment", "--workdir", str(tmp_path))
    nvtl(*download, "--job", trained)
    assert (tmp_path / f"{trained}.tar.gz").stat().st_size == done["job_tar_stats"]["file_size"]
    notebook.patch(checkpoint_choose_method="latest_model")

    evaluate = notebook.spec("evaluate")
    if network == "segformer":
        evaluate["dataset"]["batch_size"] = 4
    before = notebook.kpi(notebook.finished("evaluate", evaluate, trained), "mIoU")
    assert before > 0.3  # one class alone is a third at most
    best = trained
    if network == "unet":
        pruned = notebook.finished("prune", {**notebook.spec("prune"), "pruning_threshold": 0.7}, trained)
        best = notebook.finished("retrain", shortened(network, notebook.spec("retrain")), pruned)
        assert notebook.kpi(notebook.finished("evaluate", evaluate, best), "mIoU") > 0.3
    exported = notebook.finished("export", notebook.spec("export"), best)
    engine = notebook.spec("gen_trt_engine")
    if network == "unet":
        engine["data_type"] = "int8"
    else:
        engine["gen_trt_engine"]["tensorrt"]["data_type"] = "fp16"
    built = notebook.finished("gen_trt_engine", engine, exported)
    inference = notebook.spec("inference")
    for parent, batch_size in ((best, 4), (built, 1)):
        if network == "segformer":
            inference["dataset"]["batch_size"] = batch_size
        last = notebook.finished("inference", inference, parent)
    nvtl(*download, "--job", last)
    with tarfile.open(tmp_path / f"{last}.tar.gz") as tar:
        assert sum("/masks/scene_" in name for name in tar.getnames()) == 16

    nvtl("experiment-delete", "--id", notebook.id)
    for dataset_id in (train_set, eval_set):
        nvtl("dataset-delete", "--id", dataset_id)
    assert notebook.id not in {item["id"] for item in nvtl.literal("list-experiments")}

"""Notebook sequence D with the unmodified client nvidia-tao-client 5.3.0: detection, from login to delete."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from clients.nvtl import FINAL, Nvtl, create_experiment, upload
from support import ROOT, Yard, poll

TYPE = "object_detection"
FORMATS = {"detectnet_v2": "kitti", "dino": "coco"}
CLASSES = 2


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of digits in scenes: FORMAT/train.tar.gz and eval.tar.gz, and raw.tar.gz with pictures alone."""
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "digit_scenes.py")
    for format in FORMATS.values():
        options = ("--format", format, "--pictures", "40", "--digits", "0,1")
        subprocess.run([sys.executable, script, str(folder / format), *options], check=True, capture_output=True)
    with tarfile.open(folder / "raw.tar.gz", "w:gz") as tar:
        tar.add(folder / "kitti/eval/images", arcname="images")
    return folder


def shortened(network: str, train: dict[str, Any]) -> dict[str, Any]:
    """Change what the notebook changes in the spec, and what makes the training short."""
    if network == "detectnet_v2":
        train["gpus"] = 1
        train["training_config"] |= {"num_epochs": 6, "batch_size_per_gpu": 4}
        train["dataset_config"]["workers"] = 0
        train["model_config"]["arch"] = "test_resnet"
        train["augmentation_config"] |= {"output_width": 96, "output_height": 96}
        return train
    train["train"] |= {"num_epochs": 6, "num_gpus": 1}
    train["dataset"] |= {"num_classes": CLASSES + 1, "workers": 0}
    train["dataset"]["augmentation"] |= {"output_width": 96, "output_height": 96}
    small = {"num_queries": 20, "hidden_dim": 64, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 64}
    train["model"] |= {"backbone": "test_resnet", **small}
    return train


def convert(nvtl: Nvtl, dataset: str) -> None:
    """Run the convert action of a data set, as the notebook does for KITTI."""
    spec = dict(nvtl.literal("get-spec", "--id", dataset, "--action", "convert", "--job_type", "dataset"))
    spec["kitti_config"]["image_extension"] = ".png"
    spec["target_class_mapping"] = [{"key": "digit_0", "value": "zero"}, {"key": "digit_1", "value": "one"}]
    printed = nvtl("dataset-run-action", "--id", dataset, "--action", "convert", "--specs", json.dumps(spec))
    job = printed.splitlines()[-1].strip().strip('"')

    def read() -> dict[str, Any] | None:
        shown = json.loads(nvtl("get-action-status", "--id", dataset, "--job", job, "--job_type", "dataset"))
        return dict(shown) if shown["status"] in FINAL else None

    ended = poll(read, "the conversion", 120, 0.5)
    assert ended["status"] == "Done", ended


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", FORMATS)
def test_a_whole_notebook(yard: Yard, nvtl: Nvtl, scenes: Path, network: str, tmp_path: Path) -> None:
    nvtl("login", "--ngc-api-key", yard.make_key("acme", network, release="5.3"))
    nvtl = nvtl.of(network)
    format = FORMATS[network]
    train_set = upload(nvtl, TYPE, format, scenes / format / "train.tar.gz")
    eval_set = upload(nvtl, TYPE, format, scenes / format / "eval.tar.gz")
    test_set = upload(nvtl, TYPE, "raw", scenes / "raw.tar.gz")
    if format == "kitti":
        convert(nvtl, train_set)
        convert(nvtl, eval_set)

    notebook = create_experiment(nvtl, "tlt_encode")
    notebook.patch(
        train_datasets=[train_set],
        eval_dataset=eval_set,
        inference_dataset=test_set,
        calibration_dataset=train_set,
        docker_env_vars={},
        checkpoint_choose_method="best_model",
    )
    notebook.patch(base_experiment=[])
    assert nvtl.literal("model-automl-defaults", "--id", notebook.id)

    train = shortened(network, notebook.spec("train"))
    trained = notebook.run("train", train)
    poll(lambda: (notebook.status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 180, 0.3)
    job = ("--id", notebook.id, "--job", trained)
    nvtl("job-cancel", *job, "--job_type", "experiment")
    assert notebook.wait(trained)["status"] == "Canceled"
    nvtl("job-resume", *job, "--specs", json.dumps(train))
    done = notebook.wait(trained)
    assert done["status"] == "Done", done
    curve = next(g for g in done["result"]["graphical"] if g["metric"] == "mAP50")
    assert sorted(map(int, curve["values"])) == list(range(1, 7))
    assert done["result"]["categorical"], done["result"]
    (classes,) = [c for c in done["result"]["categorical"] if c["metric"] == "AP50"]
    expected = {"zero", "one"} if format == "kitti" else {"digit_0", "digit_1"}
    assert {entry["category"] for entry in classes["category_wise_values"]} <= expected

    log = nvtl("get-log-file", *job, "--job_type", "experiment", "--workdir", str(tmp_path))
    logs = list(tmp_path.rglob("*.txt")) or [Path(log.splitlines()[-1])]
    assert logs[0].read_text().rstrip().splitlines()[-1] == "Done EOF"

    def spec(action: str) -> dict[str, Any]:
        found = notebook.spec(action)
        if network == "dino":
            found["dataset"]["num_classes"] = CLASSES + 1
        return found

    notebook.finished("evaluate", spec("evaluate"), trained)
    best = trained
    if network == "detectnet_v2":
        pruned = notebook.finished("prune", {**spec("prune"), "pruning_threshold": 0.7}, trained)
        best = notebook.finished("retrain", shortened(network, notebook.spec("retrain")), pruned)
        notebook.finished("evaluate", spec("evaluate"), best)
    exported = notebook.finished("export", spec("export"), best)
    engine = spec("gen_trt_engine")
    (engine if network == "detectnet_v2" else engine["gen_trt_engine"]["tensorrt"])["data_type"] = "int8"
    built = notebook.finished("gen_trt_engine", engine, exported)
    notebook.finished("inference", spec("inference"), best)
    last = notebook.finished("inference", spec("inference"), built)
    nvtl(
        *("download-entire-job", "--id", notebook.id, "--job_type", "experiment", "--workdir", str(tmp_path)),
        *("--job", last),
    )
    with tarfile.open(tmp_path / f"{last}.tar.gz") as tar:
        assert sum(name.endswith(".txt") and "/labels/" in name for name in tar.getnames()) == 8

    nvtl("experiment-delete", "--id", notebook.id)
    for dataset_id in (train_set, eval_set, test_set):
        nvtl("dataset-delete", "--id", dataset_id)
    assert notebook.id not in {item["id"] for item in nvtl.literal("list-experiments")}

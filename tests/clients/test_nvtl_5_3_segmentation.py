"""Notebook sequence C with the unmodified client nvidia-tao-client 5.3.0: segmentation, from login to delete."""

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

KEYS = {"unet": "tlt_encode", "segformer": "nvidia_tao", "mask_rcnn": "tlt_encode"}
KPI = {"unet": "mIoU", "segformer": "mIoU", "mask_rcnn": "mask_mAP50"}
EPOCHS = {"unet": 12, "segformer": 8, "mask_rcnn": 8}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for script, *options in (
        ("scenes.py", str(folder), "--size", "32"),
        ("digit_scenes.py", str(folder / "objects"), "--format", "coco", "--pictures", "40", "--digits", "0,1"),
    ):
        command = [sys.executable, str(ROOT / "examples" / script), *options]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def send(nvtl: Nvtl, scenes: Path) -> tuple[str, str]:
    """Send the data that the network learns from and is measured by; return the ids of the two sets."""
    if nvtl.network == "mask_rcnn":
        folder, kind = scenes / "objects", ("instance_segmentation", "coco")
        return upload(nvtl, *kind, folder / "train.tar.gz"), upload(nvtl, *kind, folder / "eval.tar.gz")
    kind = ("semantic_segmentation", "unet")
    pieces = scenes / "train_1.tar.gz", scenes / "train_2.tar.gz"
    return upload(nvtl, *kind, *pieces), upload(nvtl, *kind, scenes / "eval.tar.gz")


def convert(nvtl: Nvtl, dataset: str, tag: str, parent: str | None) -> str:
    """Run the convert action of a data set and return its job."""
    spec = dict(nvtl.literal("get-spec", "--id", dataset, "--action", "convert", "--job_type", "dataset"))
    spec["dataset_convert"] |= {"num_shards": 256, "tag": tag}
    arguments = ["--id", dataset, "--action", "convert", "--specs", json.dumps(spec)]
    printed = nvtl("dataset-run-action", *arguments, *(["--parent_job_id", parent] if parent else []))
    job = printed.splitlines()[-1].strip().strip('"')

    def read() -> dict[str, Any] | None:
        shown = json.loads(nvtl("get-action-status", "--id", dataset, "--job", job, "--job_type", "dataset"))
        return dict(shown) if shown["status"] in FINAL else None

    ended = poll(read, "the conversion", 120, 0.5)
    assert ended["status"] == "Done", ended
    return job


def shortened(network: str, train: dict[str, Any]) -> dict[str, Any]:
    """Change what the notebook changes in the spec, and what makes the training short."""
    train["gpus"] = 1
    if network == "mask_rcnn":
        train |= {"num_epochs": EPOCHS[network], "num_examples_per_epoch": 40, "learning_rate_steps": "[60, 75]"}
        train["train_batch_size"] = 4
        train["data_config"] |= {"workers": 0, "image_size": "(96, 96)"}
        small = {"feature_size": 32, "fast_rcnn_mlp_head_dim": 64, "mask_head_dim": 32, "mask_head_layers": 2}
        train["maskrcnn_config"] |= {"arch": "test_resnet", "anchor_scale": 4, "test_rpn_post_nms_topn": 30, **small}
    elif network == "unet":
        train["training_config"] |= {"epochs": EPOCHS[network], "batch_size": 4}
        train["model"] |= {"arch": "test_resnet", "decoder_channels": 64}
        train["dataset_config"]["workers"] = 0
    else:
        train["train"] |= {"max_iters": 96, "num_rounds": EPOCHS[network], "num_gpus": 1}
        train["dataset"] |= {"batch_size": 4, "workers": 0}
    return train


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", KEYS)
def test_a_whole_notebook(yard: Yard, nvtl: Nvtl, scenes: Path, network: str, tmp_path: Path) -> None:
    nvtl("login", "--ngc-api-key", yard.make_key("acme", network, release="5.3"))
    nvtl = nvtl.of(network)
    train_set, eval_set = send(nvtl, scenes)
    converted = None
    if network == "mask_rcnn":
        for dataset, tag in ((train_set, "train"), (eval_set, "val")):
            converted = convert(nvtl, dataset, tag, converted)
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
    trained = notebook.run("train", train, converted)
    poll(lambda: (notebook.status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.3)
    job = ("--id", notebook.id, "--job", trained)
    nvtl("job-cancel", *job, "--job_type", "experiment")
    assert notebook.wait(trained)["status"] == "Canceled"
    nvtl("job-resume", *job, "--specs", json.dumps(train))
    done = notebook.wait(trained)
    assert done["status"] == "Done", done
    curve = next(g for g in done["result"]["graphical"] if g["metric"] == KPI[network])
    assert sorted(map(int, curve["values"])) == list(range(1, EPOCHS[network] + 1))

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
    least = 0.0 if network == "mask_rcnn" else 0.3  # one class alone is a third at most
    assert notebook.kpi(notebook.finished("evaluate", evaluate, trained), KPI[network]) > least
    best = trained
    if network != "segformer":
        pruned = notebook.finished("prune", {**notebook.spec("prune"), "pruning_threshold": 0.7}, trained)
        best = notebook.finished("retrain", shortened(network, notebook.spec("retrain")), pruned)
        assert notebook.kpi(notebook.finished("evaluate", evaluate, best), KPI[network]) > least
    exported = notebook.finished("export", notebook.spec("export"), best)
    engine = notebook.spec("gen_trt_engine")
    if network != "segformer":
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
        names = tar.getnames()
        if network == "mask_rcnn":
            assert sum("/overlays/scene_" in name for name in names) == 8
            results = tar.extractfile(next(name for name in names if name.endswith("/results.json")))
            assert results is not None and all("counts" in row["segmentation"] for row in json.load(results))
        else:
            assert sum("/masks/scene_" in name for name in names) == 16

    nvtl("experiment-delete", "--id", notebook.id)
    for dataset_id in (train_set, eval_set):
        nvtl("dataset-delete", "--id", dataset_id)
    assert notebook.id not in {item["id"] for item in nvtl.literal("list-experiments")}

"""Notebook sequence E with the unmodified client nvidia-tao-client 5.3.0, from login to delete."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import pytest
from clients.nvtl import Nvtl, create_experiment, upload
from support import Yard, poll

NETWORK = "classification_pyt"
TYPE = "image_classification"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, nvtl: Nvtl, digits: Path, tmp_path: Path) -> None:
    key = yard.make_key("acme", "notebook", release="5.3")
    nvtl("login", "--ngc-api-key", key)
    nvtl = nvtl.of(NETWORK)
    assert "token = " in (nvtl.home / ".tao" / "config").read_text()

    train_set = upload(nvtl, TYPE, NETWORK, digits / "train_1.tar.gz", digits / "train_2.tar.gz")
    eval_set = upload(nvtl, TYPE, NETWORK, digits / "eval.tar.gz")
    test_set = upload(nvtl, TYPE, "raw", digits / "test_raw.tar.gz")
    listed = nvtl.literal("list-datasets")
    assert {train_set, eval_set, test_set} <= {item["id"] for item in listed}

    notebook = create_experiment(nvtl)
    experiment = notebook.id
    (found,) = [
        item
        for item in nvtl.literal("list-experiments", "--filter_params", json.dumps({"network_arch": NETWORK}))
        if item["id"] == experiment
    ]
    assert isinstance(found["ngc_path"], str)
    assigned = notebook.patch(
        train_datasets=[train_set],
        eval_dataset=eval_set,
        inference_dataset=test_set,
        calibration_dataset=train_set,
        docker_env_vars={},
        base_experiment=[],
        checkpoint_choose_method="best_model",
    )
    assert assigned["train_datasets"] == [train_set]
    assert isinstance(nvtl.literal("model-automl-defaults", "--id", experiment), list)

    train = notebook.spec("train")
    train["train"]["train_config"]["runner"]["max_epochs"] = 10
    train["train"]["num_gpus"] = 1
    train["gpus"] = 1
    train["model"]["backbone"]["type"] = "resnet10t"
    train["dataset"]["augmentation"]["horizontal_flip"] = 0.0
    trained = notebook.run("train", train)

    # The log is there from the first second, also of a job that has not started.
    files = nvtl.literal(
        *("list-job-files", "--id", experiment, "--job", trained, "--job_type", "experiment"),
        *("--retrieve_logs", "True", "--retrieve_specs", "True"),
    )
    assert f"logs/{trained}.txt" in files

    poll(lambda: (notebook.status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.3)
    nvtl("job-cancel", "--id", experiment, "--job", trained, "--job_type", "experiment")
    stopped = notebook.wait(trained)
    assert stopped["status"] == "Canceled"
    nvtl("job-resume", "--id", experiment, "--job", trained, "--specs", json.dumps(train))
    done = notebook.wait(trained)
    assert done["status"] == "Done", done
    curve = next(g for g in done["result"]["graphical"] if g["metric"] == "accuracy_top-1")
    assert sorted(map(int, curve["values"])) == list(range(1, 11))

    log = nvtl(
        *("get-log-file", "--id", experiment, "--job", trained, "--job_type", "experiment", "--workdir", str(tmp_path))
    )
    logs = list(tmp_path.rglob("*.txt")) or [Path(log.splitlines()[-1])]
    assert logs[0].read_text().rstrip().splitlines()[-1] == "Done EOF"

    nvtl(
        *("download-selective-files", "--id", experiment, "--job", trained, "--job_type", "experiment"),
        *(
            "--workdir",
            str(tmp_path),
            "--file_lists",
            "[]",
            "--latest_model",
            "True",
            "--best_model",
            "False",
            "--tar_files",
            "True",
        ),
    )
    with tarfile.open(tmp_path / f"{trained}.tar.gz") as tar:
        assert any(name.endswith("010.safetensors") for name in tar.getnames())
    (tmp_path / f"{trained}.tar.gz").unlink()

    download = ("download-entire-job", "--id", experiment, "--job_type", "experiment", "--workdir", str(tmp_path))
    nvtl(*download, "--job", trained)
    archive = tmp_path / f"{trained}.tar.gz"
    assert archive.stat().st_size == done["job_tar_stats"]["file_size"]
    with tarfile.open(archive) as tar:
        assert all(name.startswith(f"{trained}/") for name in tar.getnames())

    chosen = nvtl.literal("get-metadata", "--id", experiment, "--job_type", "experiment")
    assert f"best_model_{trained}" in chosen["checkpoint_epoch_number"]
    assert chosen["checkpoint_epoch_number"][f"latest_model_{trained}"] == 10
    notebook.patch(checkpoint_choose_method="latest_model")

    evaluated = notebook.finished("evaluate", notebook.spec("evaluate"), trained)
    assert notebook.kpi(evaluated, "accuracy_top-1") > 0.9
    pruned = notebook.finished("prune", notebook.spec("prune"), trained)
    again = notebook.spec("retrain")
    again["train"]["train_config"]["runner"]["max_epochs"] = 4
    again["dataset"]["augmentation"]["horizontal_flip"] = 0.0
    retrained = notebook.finished("retrain", again, pruned)
    assert notebook.kpi(notebook.finished("evaluate", notebook.spec("evaluate"), retrained), "accuracy_top-1") > 0.9
    exported = notebook.finished("export", notebook.spec("export"), retrained)
    engine_spec = notebook.spec("gen_trt_engine")
    engine_spec["gen_trt_engine"]["tensorrt"]["data_type"] = "fp16"
    engine = notebook.finished("gen_trt_engine", engine_spec, exported)
    notebook.finished("inference", notebook.spec("inference"), retrained)
    predicted = notebook.finished("inference", notebook.spec("inference"), engine)
    nvtl(*download, "--job", predicted)
    with tarfile.open(tmp_path / f"{predicted}.tar.gz") as tar:
        tar.extractall(tmp_path / "predicted", filter="data")
    (predictions,) = (tmp_path / "predicted").rglob("predictions.csv")
    with predictions.open() as stream:
        assert len(list(csv.DictReader(stream))) == 270

    nvtl("experiment-delete", "--id", experiment)
    for dataset_id in (train_set, eval_set, test_set):
        nvtl("dataset-delete", "--id", dataset_id)
    assert experiment not in {item["id"] for item in nvtl.literal("list-experiments")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_automl_steps_of_the_notebook(yard: Yard, nvtl: Nvtl, digits: Path, tmp_path: Path) -> None:
    nvtl("login", "--ngc-api-key", yard.make_key("acme", "automl", release="5.3"))
    nvtl = nvtl.of(NETWORK)
    train_set, eval_set = (
        upload(nvtl, TYPE, NETWORK, digits / "train_1.tar.gz"),
        upload(nvtl, TYPE, NETWORK, digits / "eval.tar.gz"),
    )
    notebook = create_experiment(nvtl)
    notebook.patch(train_datasets=[train_set], eval_dataset=eval_set, base_experiment=[])
    parameters = nvtl.literal("model-automl-defaults", "--id", notebook.id)
    assert "train.train_config.optimizer.lr" in parameters
    shown = notebook.patch(
        automl_enabled=True,
        automl_algorithm="bayesian",
        metric="kpi",
        automl_max_recommendations=4,
        automl_R=27,
        automl_nu=3,
        epoch_multiplier=1,
        automl_add_hyperparameters=str([]),
        automl_remove_hyperparameters=str(["train.train_config.label_smoothing"]),
    )
    assert shown["automl_enabled"] is True and shown["automl_max_recommendations"] == 4
    train = notebook.spec("train")
    train["train"]["train_config"]["runner"]["max_epochs"] = 3
    train["train"]["num_gpus"] = train["gpus"] = 1
    train["model"]["backbone"]["type"] = "resnet10t"
    search = notebook.run("train", train)

    def stats() -> dict[str, str]:
        return {stat["metric"]: stat["value"] for stat in notebook.status(search)["result"].get("stats", [])}

    poll(lambda: int(stats().get("Current experiment number", 0)) >= 1, "the second trial", 180, 0.5)
    command = ("--id", notebook.id, "--job", search)
    nvtl("job-cancel", *command, "--job_type", "experiment")
    assert notebook.wait(search)["status"] == "Canceled"
    nvtl("job-resume", *command, "--specs", json.dumps(train))
    done = notebook.wait(search)
    assert done["status"] == "Done", done
    told = stats()
    assert (told["Number of epochs yet to start"], told["Number of success experiments"]) == ("0", "4")
    assert float(told["Time per epoch in seconds"]) > 0 and "Estimated time for automl completion" in told
    (best,) = done["result"]["automl_result"]
    assert best["metric"] == "best_accuracy_top-1" and best["value"] > 0.2

    nvtl("download-entire-job", *command, "--job_type", "experiment", "--workdir", str(tmp_path))
    with tarfile.open(tmp_path / f"{search}.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    model = tmp_path / search / "best_model"
    trials = json.loads((model / "controller.json").read_text())
    assert [trial["id"] for trial in trials] == [0, 1, 2, 3]
    assert max(trial["result"] for trial in trials) == best["value"]
    winner = next(trial["id"] for trial in trials if trial["result"] == best["value"])
    assert [path.name for path in model.glob("*.yaml")] == [f"recommendation_{winner}.yaml"]
    evaluated = notebook.finished("evaluate", notebook.spec("evaluate"), search)
    assert notebook.kpi(evaluated, "accuracy_top-1") == pytest.approx(best["value"], abs=0.005)
    nvtl("experiment-delete", "--id", notebook.id)

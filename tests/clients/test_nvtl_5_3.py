"""Notebook sequence E with the unmodified client nvidia-tao-client 5.3.0, from login to delete."""

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

import pytest
from support import Yard, poll

NETWORK = "classification_pyt"
FINAL = ("Done", "Error", "Canceled")


@dataclass(frozen=True)
class Nvtl:
    """The client as a person runs it: a command, its options, what it prints."""

    command: Path
    home: Path
    base_url: str

    def __call__(self, *arguments: str, group: str | None = NETWORK) -> str:
        words = [str(self.command), *([group] if group else []), *arguments]
        run = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=300,
            env={"HOME": str(self.home), "PATH": os.environ["PATH"], "BASE_URL": self.base_url},
        )
        assert run.returncode == 0, f"{' '.join(words)}\n{run.stdout}\n{run.stderr}"
        return run.stdout.strip()

    def literal(self, *arguments: str) -> Any:
        """Return what the tutorials make of the output: they read it as a Python literal."""
        printed = self(*arguments)
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            return ast.literal_eval(printed)


@pytest.fixture(scope="module")
def nvtl(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Nvtl:
    """The client in an environment of its own: it is proprietary and never part of this project."""
    folder = tmp_path_factory.mktemp("nvtl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run(
        [str(folder / "venv/bin/pip"), "install", "--quiet", "nvidia-tao-client==5.3.0"], check=True, timeout=280
    )
    (folder / "home").mkdir()
    return Nvtl(folder / "venv/bin/nvtl", folder / "home", f"{yard.api_url}/api/v1")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, nvtl: Nvtl, digits: Path, tmp_path: Path) -> None:
    key = yard.make_key("acme", "notebook", release="5.3")
    nvtl("login", "--ngc-api-key", key, group=None)
    assert "token = " in (nvtl.home / ".tao" / "config").read_text()

    def dataset(format: str, *archives: str) -> str:
        created = nvtl("dataset-create", "--dataset_type", "image_classification", "--dataset_format", format)
        dataset_id = created.splitlines()[-1].strip()
        patch = json.dumps({"name": f"digits {archives[0]}", "description": "digits", "docker_env_vars": {}})
        nvtl("patch-artifact-metadata", "--id", dataset_id, "--job_type", "dataset", "--update_info", patch)
        for archive in archives:
            nvtl("dataset-upload", "--id", dataset_id, "--path", str(digits / f"{archive}.tar.gz"))
        return dataset_id

    train_set = dataset(NETWORK, "train_1", "train_2")
    eval_set = dataset(NETWORK, "eval")
    test_set = dataset("raw", "test_raw")
    listed = nvtl.literal("list-datasets")
    assert {train_set, eval_set, test_set} <= {item["id"] for item in listed}

    experiment = (
        nvtl("experiment-create", "--network_arch", NETWORK, "--encryption_key", "nvidia_tlt").splitlines()[-1].strip()
    )
    (found,) = [
        item
        for item in nvtl.literal("list-experiments", "--filter_params", json.dumps({"network_arch": NETWORK}))
        if item["id"] == experiment
    ]
    assert isinstance(found["ngc_path"], str)
    assigned = nvtl.literal(
        *("patch-artifact-metadata", "--id", experiment, "--job_type", "experiment", "--update_info"),
        json.dumps(
            {
                "train_datasets": [train_set],
                "eval_dataset": eval_set,
                "inference_dataset": test_set,
                "calibration_dataset": train_set,
                "docker_env_vars": {},
                "base_experiment": [],
                "checkpoint_choose_method": "best_model",
            }
        ),
    )
    assert assigned["train_datasets"] == [train_set]
    assert isinstance(nvtl.literal("model-automl-defaults", "--id", experiment), list)

    def spec(action: str) -> dict[str, Any]:
        shown = nvtl.literal("get-spec", "--id", experiment, "--action", action, "--job_type", "experiment")
        assert isinstance(shown, dict)
        return shown

    def run(action: str, specs: dict[str, Any], parent: str | None = None) -> str:
        arguments = ["experiment-run-action", "--action", action, "--id", experiment, "--specs", json.dumps(specs)]
        printed = nvtl(*arguments, *(["--parent_job_id", parent] if parent else []))
        return str(printed.splitlines()[-1].strip().strip('"'))

    def status(job: str) -> dict[str, Any]:
        shown = nvtl("get-action-status", "--id", experiment, "--job", job, "--job_type", "experiment")
        return dict(json.loads(shown))

    def wait(job: str) -> dict[str, Any]:
        return poll(lambda: shown if (shown := status(job))["status"] in FINAL else None, f"job {job}", 240, 0.5)

    train = spec("train")
    train["train"]["train_config"]["runner"]["max_epochs"] = 10
    train["train"]["num_gpus"] = 1
    train["gpus"] = 1
    train["model"]["backbone"]["type"] = "resnet10t"
    train["dataset"]["augmentation"]["horizontal_flip"] = 0.0
    trained = run("train", train)

    # The log is there from the first second, also of a job that has not started.
    files = nvtl.literal(
        *("list-job-files", "--id", experiment, "--job", trained, "--job_type", "experiment"),
        *("--retrieve_logs", "True", "--retrieve_specs", "True"),
    )
    assert f"logs/{trained}.txt" in files

    poll(lambda: (status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.3)
    nvtl("job-cancel", "--id", experiment, "--job", trained, "--job_type", "experiment")
    stopped = wait(trained)
    assert stopped["status"] == "Canceled"
    nvtl("job-resume", "--id", experiment, "--job", trained, "--specs", json.dumps(train))
    done = wait(trained)
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
    nvtl(
        *("patch-artifact-metadata", "--id", experiment, "--job_type", "experiment"),
        *("--update_info", json.dumps({"checkpoint_choose_method": "latest_model"})),
    )

    def finished(action: str, specs: dict[str, Any], parent: str | None) -> str:
        job = run(action, specs, parent)
        shown = wait(job)
        assert shown["status"] == "Done", shown
        return job

    def accuracy(job: str) -> float:
        (kpi,) = [k for k in status(job)["result"]["kpi"] if k["metric"] == "accuracy_top-1"]
        return float(list(kpi["values"].values())[-1])

    evaluated = finished("evaluate", spec("evaluate"), trained)
    assert accuracy(evaluated) > 0.9
    pruned = finished("prune", spec("prune"), trained)
    again = spec("retrain")
    again["train"]["train_config"]["runner"]["max_epochs"] = 4
    again["dataset"]["augmentation"]["horizontal_flip"] = 0.0
    retrained = finished("retrain", again, pruned)
    assert accuracy(finished("evaluate", spec("evaluate"), retrained)) > 0.9
    exported = finished("export", spec("export"), retrained)
    engine_spec = spec("gen_trt_engine")
    engine_spec["gen_trt_engine"]["tensorrt"]["data_type"] = "fp16"
    engine = finished("gen_trt_engine", engine_spec, exported)
    finished("inference", spec("inference"), retrained)
    predicted = finished("inference", spec("inference"), engine)
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

"""Notebook sequence F with the unmodified client nvidia-tao-client 5.5.1: segformer, from login to delete."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import s3fs
from support import ROOT, Yard, poll

NETWORK, TYPE = "segformer", "semantic_segmentation"
ORG = "acme"
FINAL = ("Done", "Error", "Canceled")
ACCESS, SECRET = "trainyard", "trainyardsecret"


@dataclass(frozen=True)
class Tao:
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
        printed = self(*arguments)
        try:
            return json.loads(printed)
        except json.JSONDecodeError:
            return ast.literal_eval(printed)


@pytest.fixture(scope="module")
def tao(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Tao:
    """The client in an environment of its own: it is proprietary and never part of this project."""
    folder = tmp_path_factory.mktemp("tao")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run(
        [str(folder / "venv/bin/pip"), "install", "--quiet", "nvidia-tao-client==5.5.1"], check=True, timeout=280
    )
    (folder / "home").mkdir()
    return Tao(folder / "venv/bin/tao-client", folder / "home", f"{yard.api_url}/api/v1")


@pytest.fixture(scope="module")
def bucket(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Scenes with masks in a bucket: for training two archives in a folder, for evaluation one."""
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "scenes.py")
    subprocess.run([sys.executable, script, str(folder), "--size", "32"], check=True, capture_output=True)
    name = f"b{uuid.uuid4().hex[:12]}"
    fs = s3fs.S3FileSystem(endpoint_url=s3_url, key=ACCESS, secret=SECRET)
    fs.mkdir(name)
    for archive, path in (
        ("train_1", "scenes/train/scenes_1.tar.gz"),
        ("train_2", "scenes/train/scenes_2.tar.gz"),
        ("eval", "scenes/eval.tar.gz"),
    ):
        fs.put_file(str(folder / f"{archive}.tar.gz"), f"{name}/{path}")
    return name


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_whole_notebook(yard: Yard, tao: Tao, s3_url: str, bucket: str, tmp_path: Path) -> None:
    granted = json.loads(
        tao("login", "--ngc-api-key", yard.make_key(ORG, "ben", release="5.5"), "--ngc-org-name", ORG, group=None)
    )
    assert {"user_id", "token"} <= set(granted)
    assert f"org = {ORG}" in (tao.home / ".tao" / "config").read_text()

    details = {
        "cloud_region": "us-west-1",
        "cloud_bucket_name": bucket,
        "access_key": ACCESS,
        "secret_key": SECRET,
        "endpoint_url": s3_url,
    }
    workspace = tao(
        *("workspace-create", "--name", "AWS workspace info", "--cloud_type", "aws"),
        *("--cloud_details", json.dumps(details)),
    )

    def dataset(path: str, use_for: str) -> str:
        return tao(
            *("dataset-create", "--dataset_type", TYPE, "--dataset_format", "unet"),
            *("--workspace", workspace, "--cloud_file_path", path, "--use_for", json.dumps([use_for])),
        )

    def pulled(dataset_id: str) -> bool:
        shown = tao.literal("get-metadata", "--id", dataset_id, "--job_type", "dataset")
        assert shown["status"] != "invalid_pull", shown
        return bool(shown["status"] == "pull_complete")

    train_set = dataset("/scenes/train", "training")
    eval_set = dataset("/scenes/eval.tar.gz", "evaluation")
    test_set = dataset("/scenes/eval.tar.gz", "testing")
    for dataset_id in (train_set, eval_set, test_set):
        poll(lambda dataset_id=dataset_id: pulled(dataset_id), f"the pull of {dataset_id}", 60, 0.3)
    assert {train_set, eval_set, test_set} <= {item["id"] for item in tao.literal("list-datasets")}

    experiment = tao(
        *("experiment-create", "--network_arch", NETWORK, "--encryption_key", "tlt_encode", "--workspace", workspace)
    )
    bases = tao.literal("list-base-experiments", "--filter_params", json.dumps({"network_arch": NETWORK}))
    assert bases == []
    assigned = tao.literal(
        *("patch-artifact-metadata", "--id", experiment, "--job_type", "experiment", "--update_info"),
        json.dumps(
            {
                "train_datasets": [train_set],
                "eval_dataset": eval_set,
                "inference_dataset": test_set,
                "calibration_dataset": train_set,
                "docker_env_vars": {"WANDB_MODE": "offline"},
                "base_experiment": [base["id"] for base in bases],
                "checkpoint_choose_method": "best_model",
                "metric": "kpi",
            }
        ),
    )
    assert assigned["train_datasets"] == [train_set]
    assert isinstance(tao.literal("model-automl-defaults", "--id", experiment), list)

    def spec(action: str) -> dict[str, Any]:
        return dict(tao.literal("get-spec", "--id", experiment, "--action", action, "--job_type", "experiment"))

    def run(action: str, specs: dict[str, Any], parent: str | None = None) -> str:
        arguments = ["experiment-run-action", "--action", action, "--id", experiment, "--specs", json.dumps(specs)]
        return tao(*arguments, *(["--parent_job_id", parent] if parent else []))

    def status(job: str) -> dict[str, Any]:
        shown = tao("get-action-status", "--id", experiment, "--job", job, "--job_type", "experiment")
        return dict(json.loads(shown))

    def wait(job: str, *wanted: str) -> dict[str, Any]:
        return poll(lambda: s if (s := status(job))["status"] in (wanted or FINAL) else None, f"job {job}", 240, 0.5)

    train = spec("train")
    train["train"] |= {"max_iters": 96, "num_rounds": 8, "num_gpus": 1}
    train["dataset"] |= {"batch_size": 4, "workers": 0}
    trained = run("train", train)
    poll(lambda: (status(trained)["result"].get("epoch") or 0) >= 2, "two epochs", 120, 0.3)
    tao("job-pause", "--id", experiment, "--job", trained, "--job_type", "experiment")
    wait(trained, "Paused")
    tao("job-resume", "--id", experiment, "--job", trained, "--specs", json.dumps(train))
    done = wait(trained)
    assert done["status"] == "Done", done
    curve = next(g for g in done["result"]["graphical"] if g["metric"] == "mIoU")
    assert sorted(map(int, curve["values"])) == list(range(1, 9))

    log = tao(
        *("get-log-file", "--id", experiment, "--job", trained, "--job_type", "experiment", "--workdir", str(tmp_path))
    )
    assert Path(log).read_text().rstrip().splitlines()[-1] == "Done EOF"
    files = tao.literal(
        *("list-job-files", "--id", experiment, "--job", trained, "--job_type", "experiment"),
        *("--retrieve_logs", "True", "--retrieve_specs", "True"),
    )
    assert f"../logs/{trained}.txt" in files
    assert not [name for name in files if "secrets" in name]

    job = ("--id", experiment, "--job", trained, "--job_type", "experiment")
    model = ("--display_name", "Scenes", "--description", "digits and their masks", "--team", "vision")

    def versions() -> list[dict[str, Any]]:
        found = httpx.get(
            f"{yard.mlflow_url}/api/2.0/mlflow/model-versions/search", params={"filter": f"name = '{name}'"}
        )
        return list(found.json().get("model_versions", []))

    name = f"{ORG}.vision.Scenes"
    published = tao.literal("publish-model", *job, *model)
    assert name in published["message"]
    (best,) = versions()
    assert "remove" in tao.literal("publish-model", *job, *model)["error_desc"].lower()
    assert check_loads(yard, f"models:/{name}/{best['version']}") == 3
    assert name in tao.literal("remove-published-model", *job, "--team", "vision")["message"]
    assert versions() == []

    tao(
        *("patch-artifact-metadata", "--id", experiment, "--job_type", "experiment"),
        *("--update_info", json.dumps({"checkpoint_choose_method": "latest_model"})),
    )
    tao("publish-model", *job, *model)
    (latest,) = versions()
    tags = {tag["key"]: tag["value"] for tag in latest["tags"]}
    assert tags["trainyard.epoch"] == "8" and tags["trainyard.job_id"] == trained
    assert check_loads(yard, f"models:/{name}/{latest['version']}") == 3

    def finished(action: str, specs: dict[str, Any], parent: str | None) -> str:
        job_id = run(action, specs, parent)
        shown = wait(job_id)
        assert shown["status"] == "Done", shown
        return job_id

    finished("evaluate", spec("evaluate"), trained)
    exported = finished("export", spec("export"), trained)
    engine_spec = spec("gen_trt_engine")
    engine_spec["gen_trt_engine"]["tensorrt"]["data_type"] = "fp16"
    engine = finished("gen_trt_engine", engine_spec, exported)
    finished("inference", spec("inference"), trained)
    predicted = finished("inference", spec("inference"), engine)
    download = ("download-entire-job", "--id", experiment, "--job_type", "experiment", "--workdir", str(tmp_path))
    tao(*download, "--job", predicted)
    with tarfile.open(tmp_path / f"{predicted}.tar.gz") as tar:
        assert not [name for name in tar.getnames() if ".secrets" in name]
        assert sum("/masks/scene_" in name for name in tar.getnames()) == 16

    published = tao.literal("publish-model", "--id", experiment, "--job", engine, "--job_type", "experiment", *model)
    assert "version 2" in published["message"]
    removed = ("remove-published-model", "--id", experiment, "--job_type", "experiment", "--team", "vision")
    for job_id in (trained, engine):
        tao(*removed, "--job", job_id)

    tao("experiment-delete", "--id", experiment)
    for dataset_id in (train_set, eval_set, test_set):
        tao("dataset-delete", "--id", dataset_id)
    assert experiment not in {item["id"] for item in tao.literal("list-experiments")}


def check_loads(yard: Yard, uri: str) -> int:
    """Load a registered model as its users do, in a process of its own; return how many classes it tells apart."""
    code = (
        "import sys, mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "shape = model.metadata.signature.inputs.inputs[0].shape\n"
        "print(model.predict(np.zeros((2, *shape[1:]), np.float32)).shape[1])\n"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": yard.mlflow_url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    run = subprocess.run(
        [sys.executable, "-c", code, uri], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])

"""Bundles on a whole yard: built, trained, gone on from, killed."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_trainyard.datasets.bundle import open_bundle
from support import Yard, poll

EXAMPLE = Path(__file__).parents[2] / "examples" / "bundle"

#: Says that it runs, and goes on until it is stopped; then it leaves a word.
ENDLESS = """
import json, os, signal, sys, time
from pathlib import Path
def stop(number, frame):
    print("stopped in time", flush=True)
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
models = Path(os.environ["TRAINYARD_MODELS"])
(models / "half").mkdir()
(models / "half" / "weights.bin").write_bytes(b"half")
(models / "unfinished.bin").write_bytes(b"?")
with open(os.environ["TRAINYARD_METRICS"], "a") as file:
    file.write("no JSON\\n")
    file.write(json.dumps({"model": "half", "metrics": {"loss": float("nan"), "accuracy": 0.5}}) + "\\n")
print("training", flush=True)
time.sleep(600)
"""


def example(changes: dict[str, tuple[str, str]] | None = None) -> bytes:
    """Return the example as a zip, with parts of its text files replaced."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for path in sorted(p for p in EXAMPLE.rglob("*") if p.is_file() and p.suffix != ".pyc"):
            name, text = path.relative_to(EXAMPLE).as_posix(), path.read_text()
            if name in (changes or {}):
                old, new = (changes or {})[name]
                assert old in text
                text = text.replace(old, new)
            packed.writestr(name, text)
    return content.getvalue()


def tiny(script: str) -> bytes:
    manifest = '[[stages]]\nname = "train"\nentry_point = "train.py"\n'
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("bundle.toml", f'name = "tiny"\n{manifest}')
        packed.writestr("train.py", script)
    return content.getvalue()


@pytest.fixture(scope="module")
def train(yard: Yard) -> httpx.Client:
    token = httpx.post(f"{yard.api_url}/api/v1/login", json={"ngc_api_key": yard.key}, timeout=30).json()["token"]
    return httpx.Client(base_url=f"{yard.api_url}/train/", headers={"Authorization": f"Bearer {token}"}, timeout=120)


def start(train: httpx.Client, bundle: bytes, workspace: str = "moons") -> str:
    answer = train.post(workspace, files={"data": ("bundle.zip", bundle)}, params={"user": "ann"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_id"])


def read(train: httpx.Client, job_id: str, **query: str) -> dict[str, Any]:
    answer = train.post(f"moons/{job_id}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(train: httpx.Client, job_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = read(train, job_id)
        return job if job["status"] in ("done", "failed", "killed") else None

    return poll(look, f"the end of {job_id}", 180, every_s=0.2)


def log(train: httpx.Client, job_id: str) -> str:
    return train.get(f"moons/{job_id}/logs").text


def test_the_example_is_a_bundle() -> None:
    bundle = open_bundle(EXAMPLE)
    assert [stage.name for stage in bundle.manifest.stages] == ["split", "train"]
    assert [file.path for file in bundle.data] == ["data/points.csv"]


def test_example_trains_and_a_second_job_goes_on_from_its_best_model(yard: Yard, train: httpx.Client) -> None:
    first_id = start(train, example())
    first = ended(train, first_id)
    assert first["status"] == "done", log(train, first_id)
    assert first["model_count"] == 5 and first["message"] == "Trained; 5 models."
    best = read(train, first_id, sort_by="loss")["models"][0]
    assert best["name"] == "epoch_5.safetensors" and best["metrics"]["accuracy"] > 0.9
    text = log(train, first_id)
    assert "points to train with" in text and text.endswith("Done EOF\n")

    parents = ("[parameters]", f'parents = ["{best["model_id"]}"]\n\n[parameters]')
    second_id = start(train, example({"bundle.toml": parents}))
    second = ended(train, second_id)
    text = log(train, second_id)
    assert second["status"] == "done", text
    assert f"starting from {best['model_id']}" in text and "is there already" in text
    assert second["metrics"]["loss"] < best["metrics"]["loss"]

    told = train.get(f"moons/{second['models'][0]['model_id']}/provenance").json()
    assert told["parents"] == [{"model_id": best["model_id"], "job_id": first_id, "sha256": best["sha256"]}]
    before = train.get(f"moons/{best['model_id']}/provenance").json()
    assert told["data"] == before["data"] and told["code"] != before["code"]
    assert told["environment"]["sha256"] == before["environment"]["sha256"]
    assert any(package.startswith("numpy==") for package in told["environment"]["packages"])
    assert told["environment"]["python"] == ".".join(map(str, sys.version_info[:3]))

    run = httpx.get(f"{yard.mlflow_url}/api/2.0/mlflow/runs/get", params={"run_id": told["mlflow_run_id"]}).json()[
        "run"
    ]
    assert {param["key"]: param["value"] for param in run["data"]["params"]}["learning_rate"] == "0.5"
    metrics = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
    assert metrics["loss"] == pytest.approx(second["metrics"]["loss"])
    assert {one["dataset"]["name"] for one in run["inputs"]["dataset_inputs"]} == {"code", "data"}

    packed = train.get(f"moons/{second_id}/bundle", params={"include-data": "false", "include-model": "true"})
    names = zipfile.ZipFile(io.BytesIO(packed.content)).namelist()
    assert f"models/{second_id}/epoch_1.safetensors" in names and "code/train.py" in names
    assert not any(name.startswith("data/") for name in names)


def test_killed_job_keeps_the_models_that_were_complete(train: httpx.Client) -> None:
    job_id = start(train, tiny(ENDLESS))
    poll(lambda: "training" in log(train, job_id), "the stage", 120)
    poll(lambda: read(train, job_id)["models"], "the model", 30)
    poll(lambda: read(train, job_id)["status"] == "running", "the stage to be told", 30)
    assert train.delete(f"moons/{job_id}/").status_code == 200
    job = ended(train, job_id)
    assert job["status"] == "killed"
    [model] = job["models"]
    assert (model["name"], model["metrics"]) == ("half", {"accuracy": 0.5})
    assert [file["path"] for file in model["files"]] == ["half/weights.bin"]
    text = log(train, job_id)
    assert "stopped in time" in text and "is not understood" in text
    again = train.delete(f"moons/{job_id}/")
    assert again.status_code == 400
    assert again.json() == {"error_code": "JOB_NOT_RUNNING", "message": f"Job is not running, id: {job_id}"}


def test_stage_that_fails_or_breaks_its_promise_fails_the_job(train: httpx.Client) -> None:
    broken = start(train, tiny("import sys; print('no good'); sys.exit(3)"))
    outputs = 'name = "train"\noutputs = ["missing.txt"]\nentry_point'
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("bundle.toml", f'name = "x"\n[[stages]]\n{outputs} = "train.py"\n')
        packed.writestr("train.py", json.dumps("nothing"))
    lazy = start(train, content.getvalue())
    job = ended(train, broken)
    assert job["status"] == "failed" and "The stage train ended with exit code 3" in job["message"]
    assert "no good" in log(train, broken) and log(train, broken).endswith("Error EOF\n")
    assert "has not made missing.txt" in ended(train, lazy)["message"]

"""Semantic segmentation over REST: data in pieces, and the jobs of the tutorials in their order."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from support import ROOT, Yard, upload_dataset, wait_for_job

TYPE = "semantic_segmentation"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "scenes.py")
    subprocess.run([sys.executable, script, str(folder), "--size", "32"], check=True, capture_output=True)
    return folder


def upload(client: httpx.Client, dataset_id: str, archive: bytes) -> httpx.Response:
    return client.post(f"datasets/{dataset_id}:upload", files={"file": ("piece.tar", archive)})


def packed(**files: Image.Image) -> bytes:
    """Return a tar; `images__a` is the file images/a.png."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, image in files.items():
            content = io.BytesIO()
            image.save(content, "PNG")
            info = tarfile.TarInfo(f"{name.replace('__', '/')}.png")
            info.size = content.tell()
            content.seek(0)
            tar.addfile(info, content)
    return buffer.getvalue()


def mask(*values: int) -> Image.Image:
    return Image.fromarray(np.resize(np.array(values, np.uint8), (8, 8)))


def assigned(client: httpx.Client, network: str, train_set: str, eval_set: str) -> str:
    """Return an experiment with its data sets, made as the tutorials make it."""
    body = {"network_arch": network, "encryption_key": "tlt_encode", "checkpoint_choose_method": "best_model"}
    made = client.post("experiments", json=body)
    assert made.status_code == 201, made.text
    experiment = str(made.json()["id"])
    patch = {
        "train_datasets": [train_set],
        "eval_dataset": eval_set,
        "inference_dataset": eval_set,
        "calibration_dataset": train_set,
    }
    assert client.patch(f"experiments/{experiment}", json=patch).status_code == 200
    return experiment


def test_wrong_masks_are_refused_with_their_names(yard: Yard) -> None:
    with yard.client() as client:
        made = client.post("datasets", json={"type": TYPE, "format": "unet"})
        assert made.status_code == 201, made.text
        dataset = str(made.json()["id"])
        picture = Image.new("RGB", (8, 8), (9, 90, 200))
        answer = upload(client, dataset, packed(images__a=picture, masks__a=Image.new("L", (4, 4))))
        assert answer.status_code == 400
        assert "masks/a.png has 4 x 4 pixels" in answer.text
        # The tutorials cut archives anywhere: a piece may hold images alone.
        assert upload(client, dataset, packed(images__a=picture, images__b=picture)).is_success
        experiment = assigned(client, "unet", dataset, dataset)
        body = {"action": "train", "specs": {"training_config": {"epochs": 1}}, "parent_job_id": None}
        answer = client.post(f"experiments/{experiment}/jobs", json=body)
        assert answer.status_code == 400
        assert "There is no mask for images/a.png, images/b.png" in answer.text
        assert upload(client, dataset, packed(masks__a=mask(1), masks__b=mask(1))).is_success
        answer = client.post(f"experiments/{experiment}/jobs", json=body)
        assert answer.status_code == 400
        assert "only '1' occurs in the masks" in answer.text


Run = Callable[..., dict[str, Any]]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("network", ["unet", "segformer"])
def test_the_jobs_of_the_tutorial(yard: Yard, scenes: Path, network: str) -> None:
    with yard.client() as client:
        train_set = upload_dataset(client, scenes / "train_1.tar.gz", "unet", TYPE)
        with (scenes / "train_2.tar.gz").open("rb") as stream:
            assert upload(client, train_set, stream.read()).is_success
        experiment = assigned(client, network, train_set, upload_dataset(client, scenes / "eval.tar.gz", "unet", TYPE))
        jobs = f"experiments/{experiment}/jobs"

        def defaults(action: str) -> dict[str, Any]:
            answer = client.get(f"experiments/{experiment}/specs/{action}/schema")
            assert answer.status_code == 200, answer.text
            return dict(answer.json()["default"])

        def run(action: str, specs: dict[str, Any], parent: str | None = None) -> str:
            sent = client.post(jobs, json={"action": action, "specs": specs, "parent_job_id": parent})
            assert sent.status_code == 201, sent.text
            ended = wait_for_job(client, f"{jobs}/{sent.json()}")
            assert ended["status"] == "Done", ended
            return str(sent.json())

        def kpi(job: str, name: str) -> float:
            found = client.get(f"{jobs}/{job}").json()["result"]["kpi"]
            return float(next(list(k["values"].values())[-1] for k in found if k["metric"] == name))

        training = defaults("train")
        training["gpus"] = 1
        if network == "unet":
            training["training_config"]["epochs"] = 2
            training["dataset_config"]["workers"] = 0
            training["model"] |= {"arch": "test_resnet", "decoder_channels": 64}
        else:
            training["dataset"] |= {"batch_size": 4, "workers": 0}
            training["train"] |= {"max_iters": 8, "num_rounds": 2, "num_gpus": 1}
        trained = best = run("train", training)
        assert client.patch(f"experiments/{experiment}", json={"checkpoint_choose_method": "latest_model"}).is_success
        assert 0 <= kpi(run("evaluate", defaults("evaluate"), trained), "mIoU") <= 1
        if network == "unet":
            pruned = run("prune", {**defaults("prune"), "pruning_threshold": 0.7}, trained)
            best = run("retrain", training, pruned)
            run("evaluate", defaults("evaluate"), best)
        else:
            refused = client.post(jobs, json={"action": "prune", "specs": {"a": 1}, "parent_job_id": trained})
            assert refused.status_code == 400
            assert "has no action 'prune'" in refused.text
        graph = run("export", defaults("export"), best)
        # An engine takes its calibration data from the experiment, or from the tensorfile that it comes after.
        before = graph if network == "unet" else run("calibration_tensorfile", {"images": 4}, graph)
        engine = defaults("gen_trt_engine")
        (engine if network == "unet" else engine["gen_trt_engine"]["tensorrt"])["data_type"] = "int8"
        built = run("gen_trt_engine", engine, before)
        run("inference", defaults("inference"), best)
        last = run("inference", defaults("inference"), built)
        files = client.get(f"{jobs}/{last}:list_files").json()
        assert sum("/masks/scene_" in name for name in files) == 16
        assert client.get(f"{jobs}/{last}:download").status_code == 200

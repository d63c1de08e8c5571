"""Masks of boxes over REST: a set with boxes alone is learned from and gets its masks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.actions import Action
from support import ROOT, Yard, upload_dataset, wait_for_job


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`kitti/train.tar.gz` has boxes alone, `coco/eval.tar.gz` has masks too."""
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "digit_scenes.py")
    for format in ("kitti", "coco"):
        arguments = [script, str(folder / format), "--format", format, "--pictures", "20"]
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_boxes_get_masks(yard: Yard, scenes: Path) -> None:
    with yard.client() as client:
        boxed = upload_dataset(client, scenes / "kitti/train.tar.gz", "kitti", "object_detection")
        masked = upload_dataset(client, scenes / "coco/eval.tar.gz", "coco", "instance_segmentation")
        raw = client.post("datasets", json={"type": "object_detection", "format": "raw"}).json()["id"]
        body = {"network_arch": "mal", "encryption_key": "k", "checkpoint_choose_method": "best_model"}
        experiment = client.post("experiments", json=body).json()["id"]
        patch = {"train_datasets": [boxed], "eval_dataset": masked, "inference_dataset": boxed}
        patched = client.patch(f"experiments/{experiment}", json=patch)
        assert patched.status_code == 200, patched.text
        refused = client.patch(f"experiments/{experiment}", json={"inference_dataset": raw})
        assert refused.status_code == 400 and "It reads coco, kitti, pascal_voc" in refused.text
        searched = client.patch(f"experiments/{experiment}", json={"automl_enabled": True})
        assert searched.status_code == 400 and "mal cannot be searched" in searched.text
        jobs = f"experiments/{experiment}/jobs"

        def run(action: str, parent: str | None, **changes: dict[str, Any]) -> str:
            answer = client.get(f"experiments/{experiment}/specs/{action}/schema")
            assert answer.status_code == 200, answer.text
            specs = answer.json()["default"]
            for name, section in changes.items():
                specs[name] |= section
            sent = client.post(jobs, json={"action": action, "specs": specs, "parent_job_id": parent})
            assert sent.status_code == 201, sent.text
            ended = wait_for_job(client, f"{jobs}/{sent.json()}")
            assert ended["status"] == "Done", ended
            return str(sent.json())

        quick = json.loads(json.dumps(get_network("mal").quick[Action.TRAIN]))
        quick["train"]["num_epochs"] = 3
        trained = run("train", None, **quick)
        evaluated = client.get(f"{jobs}/{run('evaluate', trained)}").json()["result"]
        found = {kpi["metric"]: list(kpi["values"].values())[-1] for kpi in evaluated["kpi"]}
        assert 0.3 < found["mIoU"] <= 1 and 0 <= found["mask_mAP"] <= 1
        files = client.get(f"{jobs}/{run('inference', trained)}:list_files").json()
        assert any(name.endswith("inference/annotations.json") for name in files)
        assert sum("/overlays/scene_" in name for name in files) == 20
        for action in ("prune", "export", "gen_trt_engine"):
            sent = client.post(jobs, json={"action": action, "specs": {"a": 1}, "parent_job_id": trained})
            assert sent.status_code == 400 and f"has no action '{action}'" in sent.text

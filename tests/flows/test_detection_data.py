"""Detection sets in a yard: uploads, and the jobs of data sets with what they leave behind."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT, Yard, upload_dataset, wait_for_job

TYPE = "object_detection"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    script = str(ROOT / "examples" / "digit_scenes.py")
    for format in ("kitti", "coco"):
        command = [sys.executable, script, str(folder / format), "--format", format, "--pictures", "15"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


class Jobs:
    """The jobs of one data set."""

    def __init__(self, client: httpx.Client, dataset: str) -> None:
        self.client, self.owner = client, f"datasets/{dataset}"

    def defaults(self, action: str) -> dict[str, Any]:
        answer = self.client.get(f"{self.owner}/specs/{action}/schema")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["default"])

    def run(self, action: str, specs: dict[str, Any], status: str = "Done") -> dict[str, Any]:
        sent = self.client.post(f"{self.owner}/jobs", json={"action": action, "specs": specs, "parent_job_id": None})
        assert sent.status_code == 201, sent.text
        ended = wait_for_job(self.client, f"{self.owner}/jobs/{sent.json()}")
        assert ended["status"] == status, ended
        return ended

    def files(self, job: dict[str, Any]) -> dict[str, bytes]:
        """Return what a client downloads, by the path below the job's folder."""
        answer = self.client.get(f"{self.owner}/jobs/{job['id']}:download")
        assert answer.status_code == 200, answer.text
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
            streams = ((m.name.partition("/")[2], tar.extractfile(m)) for m in tar if m.isfile())
            return {name: stream.read() for name, stream in streams if stream is not None}


def kpi(job: dict[str, Any]) -> dict[str, float]:
    return {entry["metric"]: float(next(iter(entry["values"].values()))) for entry in job["result"]["kpi"]}


def message(job: dict[str, Any]) -> str:
    return str(job["result"]["detailed_status"]["message"])


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.timeout(600)
def test_the_services_of_a_kitti_set(yard: Yard, scenes: Path, tmp_path: Path) -> None:
    with yard.client() as client:
        dataset = upload_dataset(client, scenes / "kitti/train.tar.gz", "kitti", TYPE)
        jobs = Jobs(client, dataset)

        specs = jobs.defaults("convert")
        specs["kitti_config"]["image_extension"] = ".png"
        specs["target_class_mapping"] = [{"key": "digit_3", "value": "odd"}, {"key": "digit_5", "value": "odd"}]
        converted = jobs.run("convert", {**specs, "gpus": 1})
        assert kpi(converted)["images"] == 15 and kpi(converted)["classes"] == 2
        info = json.loads(jobs.files(converted)["index/dataset.json"])
        assert info["classes"] == ["odd", "digit_8"] and info["boxes"] == kpi(converted)["boxes"] > 15

        specs["target_class_mapping"] = [{"key": "digit_4", "value": "even"}]
        wrong = jobs.run("convert_efficientdet_tf2", specs, "Error")
        assert "There is no class 'digit_4' to rename" in message(wrong)
        assert "The classes are digit_3, digit_5, digit_8" in message(wrong)

        analysis = jobs.run("analyze", jobs.defaults("analyze"))
        files = jobs.files(analysis)
        assert json.loads(files["analysis/summary.json"])["boxes"] == info["boxes"]
        rows = list(csv.DictReader(io.StringIO(files["analysis/classes.csv"].decode())))
        assert [row["name"] for row in rows] == ["digit_3", "digit_5", "digit_8"]
        assert files["analysis/class_balance.png"].startswith(b"\x89PNG")
        counted = next(c for c in analysis["result"]["categorical"] if c["metric"] == "boxes")
        assert sum(entry["value"] for entry in counted["category_wise_values"]) == info["boxes"]
        assert kpi(jobs.run("validate", {}))["problems"] == 0

        anchors = jobs.run("kmeans", {"size_x": 160, "size_y": 128, "num_clusters": 4})
        assert len(json.loads(jobs.files(anchors)["anchors.json"])["anchors"]) == 4
        assert 0.5 < kpi(anchors)["mean_iou"] <= 1

        augmented = jobs.run("augment", {"copies": 2})
        assert sum(name.startswith("dataset/images/") for name in jobs.files(augmented)) == 45

        specs = jobs.defaults("annotation_format_convert")
        specs["data"] = {"input_format": "KITTI", "output_format": "COCO"}
        rewritten = jobs.run("annotation_format_convert", specs)
        files = jobs.files(rewritten)
        data = json.loads(files["dataset/annotations.json"])
        assert len(data["images"]) == 15 and len(data["annotations"]) == info["boxes"]
        # What a job made is a data set that can be sent again, leading folders and all.
        archive = tmp_path / "coco.tar"
        archive.write_bytes(packed({name: files[name] for name in files if name.startswith("dataset/")}))
        again = Jobs(client, upload_dataset(client, archive, "coco", TYPE))
        assert kpi(again.run("convert_and_index", {}))["boxes"] == info["boxes"]


@pytest.mark.timeout(600)
def test_a_coco_set_in_pieces(yard: Yard, scenes: Path) -> None:
    with yard.client() as client:
        made = client.post("datasets", json={"type": TYPE, "format": "coco"})
        dataset = str(made.json()["id"])
        jobs = Jobs(client, dataset)
        root = scenes / "coco" / "train"
        pictures = {f"train/images/{p.name}": p.read_bytes() for p in sorted((root / "images").iterdir())}
        annotations = (root / "annotations.json").read_text()

        def send(files: dict[str, bytes]) -> httpx.Response:
            return client.post(f"datasets/{dataset}:upload", files={"file": ("piece.tar", packed(files))})

        broken = json.loads(annotations)
        broken["annotations"][2]["bbox"] = [1, 2, 3]
        refused = send({"annotations.json": json.dumps(broken, indent=1).encode()})
        assert refused.status_code == 400
        assert "annotations.json, line" in refused.text and "annotations[2]: its bbox is [1, 2, 3]" in refused.text
        assert send({"annotations.json": annotations.encode()}).status_code == 201
        half = dict(list(pictures.items())[:8])
        assert send(half).status_code == 201
        early = jobs.run("convert", {}, "Error")
        assert "there is no picture images/scene_00008.png" in message(early)
        assert send({name: pictures[name] for name in pictures if name not in half}).status_code == 201
        converted = jobs.run("convert", {"dataset_convert": {"num_shards": 256, "tag": "train"}})
        assert kpi(converted)["images"] == 15

        rewritten = jobs.run("annotation_format_convert", jobs.defaults("annotation_format_convert"))
        labels = [name for name in jobs.files(rewritten) if name.startswith("dataset/labels/")]
        assert len(labels) == 15

        outside = json.loads(annotations)
        outside["annotations"][0]["bbox"] = [-10, 1, 50, 50]
        outside["annotations"][0].pop("segmentation")
        assert send({"annotations.json": json.dumps(outside).encode()}).status_code == 201
        assert "outside=clip" in message(jobs.run("convert", {}, "Error"))
        problems = jobs.run("validate", {})
        assert kpi(problems)["problems"] == 1
        assert "annotations[0]" in jobs.files(problems)["analysis/problems.csv"].decode()
        assert kpi(jobs.run("convert", {"outside": "clip"}))["boxes"] == kpi(converted)["boxes"]


def test_what_does_not_fit_is_refused(yard: Yard, scenes: Path) -> None:
    with yard.client() as client:
        dataset = str(client.post("datasets", json={"type": TYPE, "format": "kitti"}).json()["id"])
        with (scenes / "coco/eval.tar.gz").open("rb") as stream:
            refused = client.post(f"datasets/{dataset}:upload", files={"file": ("eval.tar.gz", stream)})
        assert refused.status_code == 400 and "annotations.json" in refused.text
        assert client.get(f"datasets/{dataset}").json()["status"] == "starting"
        line = b"digit_3 0 0 0 1 2 3 4 0 0 0 0 0 0 0\ndigit_3 0 0 0 one 2 3 4 0 0 0 0 0 0 0\n"
        piece = packed({"labels/a.txt": line})
        refused = client.post(f"datasets/{dataset}:upload", files={"file": ("a.tar", piece)})
        assert refused.status_code == 400 and "labels/a.txt, line 2: column 5 is 'one'" in refused.text

"""The main job from REST to an exported model, on 1,797 real handwritten digits.

Starts a yard in a temporary home (or uses `--api URL --key KEY`), walks dataset, train, evaluate,
prune, retrain, export, engine and inference over HTTP, checks every bound and prints a table.
Exit code 0 only if every action ended Done and every bound holds.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))
from digits import write_digits

ORG = "demo"
NETWORK = "classification_pyt"
ACCURACY = "accuracy_top-1"
#: The digits that neither training nor the choice of the best epoch has seen.
TEST_IMAGES = 270
POLL_S = 0.3

TRAIN_SPEC: dict[str, Any] = {
    "model": {"backbone": {"type": "resnet18"}},
    "dataset": {
        "batch_size": 64,
        "augmentation": {"horizontal_flip": 0.0, "rotation": 10.0, "translation": 0.08},
    },
    "train": {
        "train_config": {"runner": {"max_epochs": 8}, "optimizer": {"lr": 0.002}, "label_smoothing": 0.1},
    },
}
RETRAIN_SPEC: dict[str, Any] = {
    **TRAIN_SPEC,
    "train": {
        "train_config": {"runner": {"max_epochs": 5}, "optimizer": {"lr": 0.002}, "label_smoothing": 0.1},
    },
}
PRUNE_SPEC = {"prune": {"pruning_ratio": 0.4}}
ENGINE_SPEC = {"gen_trt_engine": {"backend": "auto", "tensorrt": {"data_type": "int8"}}}

#: Job ids are long and there to be copied: lines may be wider than the terminal.
console = Console(width=max(Console().width, 140))


@dataclass
class Row:
    """One line of the table at the end."""

    action: str
    job_id: str
    status: str
    seconds: float
    accuracy: float | None = None
    model_bytes: int | None = None
    parameters: int | None = None
    message: str = ""
    kpi: dict[str, float] = field(default_factory=dict)


@dataclass
class Demo:
    """Talks to the facade as any client would."""

    http: httpx.Client
    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self.http.request(method, path, **kwargs)
        if response.is_error:
            raise SystemExit(f"{method} {path} answered {response.status_code}: {response.text}")
        return response.json() if "json" in response.headers.get("content-type", "") else response.content

    def dataset(self, name: str, format: str, archives: list[Path]) -> str:
        made = self.call("POST", "datasets", json={"type": "image_classification", "format": format, "name": name})
        for archive in archives:
            with archive.open("rb") as stream:
                self.call("POST", f"datasets/{made['id']}:upload", files={"file": (archive.name, stream)})
        shown = self.call("GET", f"datasets/{made['id']}")
        console.print(f"data set [bold]{name}[/] {made['id']} is {shown['status']}")
        return str(made["id"])

    def job(
        self, owner: str, action: str, spec: dict[str, Any] | None = None, parent: str | None = None, label: str = ""
    ) -> str:
        """Run one action to its end and return the job id."""
        body = {"action": action, "specs": spec or {}, "parent_job_id": parent}
        job_id = str(self.call("POST", f"{owner}/jobs", json=body))
        start = time.monotonic()
        job: dict[str, Any] = {}
        columns = (
            TextColumn("{task.description:18}"),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[message]}"),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(label or action, total=1.0, message="")
            while True:
                job = self.call("GET", f"{owner}/jobs/{job_id}")
                result = job.get("result") or {}
                epoch, last = result.get("epoch"), result.get("max_epoch")
                message = (result.get("detailed_status") or {}).get("message", "")
                done = job["status"] in ("Done", "Error", "Canceled")
                progress.update(bar, completed=1.0 if done else (epoch or 0) / (last or 1), message=message[:70])
                if done:
                    break
                time.sleep(POLL_S)
        seconds = time.monotonic() - start
        kpi = {item["metric"]: list(item["values"].values())[-1] for item in result.get("kpi", []) if item["values"]}
        stats = {item["metric"]: item["value"] for item in result.get("stats", [])}
        self.rows.append(
            Row(
                action=label or action,
                job_id=job_id,
                status=job["status"],
                seconds=seconds,
                accuracy=kpi.get(ACCURACY),
                kpi=kpi,
                parameters=int(stats["parameters"]) if "parameters" in stats else None,
                model_bytes=int(stats["model_size_bytes"]) if "model_size_bytes" in stats else None,
                message=message,
            )
        )
        self.expect(job["status"] == "Done", f"{label or action} ended {job['status']}: {message}")
        if job["status"] != "Done":
            raise SystemExit(self.finish())
        return job_id

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)

    def row(self, label: str) -> Row:
        return next(row for row in self.rows if row.action == label)

    def file(self, owner: str, job_id: str, suffix: str) -> bytes:
        """Return the file of a job whose name ends with `suffix`, out of its download."""
        content = self.call("GET", f"{owner}/jobs/{job_id}:download")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as tar:
            name = next(name for name in tar.getnames() if name.endswith(suffix))
            extracted = tar.extractfile(name)
            assert extracted is not None
            return extracted.read()

    def finish(self) -> int:
        """Print the table; return the exit code."""
        table = Table("action", "job id", "status", "seconds", "accuracy", "model size", "parameters")
        for row in self.rows:
            table.add_row(
                row.action,
                row.job_id,
                row.status,
                f"{row.seconds:.1f}",
                "" if row.accuracy is None else f"{row.accuracy:.4f}",
                "" if row.model_bytes is None else f"{row.model_bytes / 1e6:.2f} MB",
                "" if row.parameters is None else f"{row.parameters:,}",
            )
        console.print(table)
        for problem in self.broken:
            console.print(f"[red]not as promised:[/] {problem}")
        if not self.broken:
            console.print("[green]Every action is Done and every bound holds.[/]")
        return 1 if self.broken else 0


def walk(demo: Demo, data: Path) -> int:
    """Run the whole chain and check its bounds."""
    train = demo.dataset("digits train", "classification_pyt", [data / "train_1.tar.gz", data / "train_2.tar.gz"])
    evaluation = demo.dataset("digits eval", "classification_pyt", [data / "eval.tar.gz"])
    test = demo.dataset("digits test", "classification_pyt", [data / "test_labelled.tar.gz"])
    raw = demo.dataset("digits unlabelled", "raw", [data / "test_raw.tar.gz"])
    for dataset in (train, test):
        demo.job(f"datasets/{dataset}", "dataset_convert", label="dataset_convert")

    made = demo.call("POST", "experiments", json={"network_arch": NETWORK, "name": "digits", "encryption_key": "demo"})
    owner = f"experiments/{made['id']}"
    demo.call(
        "PATCH",
        owner,
        json={
            "train_datasets": [train],
            "eval_dataset": evaluation,
            "inference_dataset": raw,
            "calibration_dataset": train,
            "checkpoint_choose_method": "best_model",
        },
    )
    trained = demo.job(owner, "train", TRAIN_SPEC)
    # The evaluation set chose the best epoch; the figures that count come from images nobody has seen.
    demo.call("PATCH", owner, json={"eval_dataset": test})
    demo.job(owner, "evaluate", parent=trained, label="evaluate trained")
    pruned = demo.job(owner, "prune", PRUNE_SPEC, parent=trained)
    demo.call("PATCH", owner, json={"eval_dataset": evaluation})
    retrained = demo.job(owner, "retrain", RETRAIN_SPEC, parent=pruned)
    demo.call("PATCH", owner, json={"eval_dataset": test})
    demo.job(owner, "evaluate", parent=retrained, label="evaluate retrained")
    exported = demo.job(owner, "export", parent=retrained)
    demo.job(owner, "evaluate", parent=exported, label="evaluate onnx")
    engine = demo.job(owner, "gen_trt_engine", ENGINE_SPEC, parent=exported)
    demo.job(owner, "evaluate", parent=engine, label="evaluate engine")
    by_weights = demo.job(owner, "inference", parent=retrained, label="inference")
    by_engine = demo.job(owner, "inference", parent=engine, label="inference engine")

    accuracy = {row.action: row.accuracy or 0.0 for row in demo.rows}
    before, after = demo.row("train").parameters or 0, demo.row("prune").parameters or 0
    gone = 1 - after / before if before else 0.0
    demo.expect(accuracy["evaluate trained"] >= 0.97, f"accuracy after train is {accuracy['evaluate trained']:.4f}")
    demo.expect(gone >= 0.30, f"only {gone:.1%} of the parameters were pruned")
    demo.expect(accuracy["evaluate retrained"] >= 0.96, f"accuracy after retrain: {accuracy['evaluate retrained']:.4f}")
    drop = abs(accuracy["evaluate engine"] - accuracy["evaluate retrained"])
    demo.expect(drop <= 0.01, f"the int8 engine differs from fp32 by {drop:.4f}")
    compared = demo.row("export").kpi
    # The export job is an Error when one of the images it compares on gets another label.
    demo.expect(compared["compared_images"] == TEST_IMAGES, "ONNX was not compared on the whole test set")
    demo.expect(accuracy["evaluate onnx"] == accuracy["evaluate retrained"], "ONNX is right on other test images")
    demo.expect(compared["max_difference"] <= 1e-3, f"ONNX logits differ by {compared['max_difference']:.2e}")
    for job_id in (by_weights, by_engine):
        lines = list(csv.DictReader(io.StringIO(demo.file(owner, job_id, "predictions.csv").decode())))
        demo.expect(len(lines) == TEST_IMAGES, f"predictions.csv has {len(lines)} lines")
    console.print(f"engine: {demo.row('gen_trt_engine').message}")
    console.print(f"{gone:.1%} of the parameters are gone; largest ONNX difference {compared['max_difference']:.1e}")
    return demo.finish()


def trainyard(*arguments: str) -> str:
    """Run the command line of the environment this script runs in; return what it prints."""
    command = [str(Path(sys.executable).with_name("trainyard")), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(walk: Callable[[Demo, Path], int], about: str | None) -> int:
    """Let `walk` talk to a yard; return the exit code. `about` is what `--help` says."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--api", help="address of a yard that is up, for example http://127.0.0.1:8470")
    parser.add_argument("--key", help="API key for it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as scratch:
        data = Path(scratch) / "digits"
        write_digits(data)
        if arguments.api:
            return run(walk, arguments.api, arguments.key, data)
        home = f"{scratch}/home"
        start = time.monotonic()
        try:
            console.print(trainyard("up", "--home", home, "--port", "0", "--detach"))
            console.print(f"The yard was up after {time.monotonic() - start:.1f} s.")
            status = json.loads(trainyard("status", "--home", home, "--json"))
            key = trainyard("keys", "create", "--home", home, "--org", ORG, "--user", "demo")
            code = run(walk, status["api_url"], key, data)
            console.print(
                f"Used: Prefect UI {status['prefect_url']}  MLflow {status['mlflow_url']}  API {status['api_url']}/docs"
            )
            return code
        finally:
            console.print(trainyard("down", "--home", home))


def run(walk: Callable[[Demo, Path], int], api: str, key: str, data: Path) -> int:
    with httpx.Client(timeout=600) as anonymous:
        login = anonymous.post(f"{api}/api/v1/login", json={"ngc_api_key": key})
        login.raise_for_status()
    headers = {"Authorization": f"Bearer {login.json()['token']}"}
    with httpx.Client(base_url=f"{api}/api/v1/orgs/{ORG}/", headers=headers, timeout=600) as http:
        return walk(Demo(http), data)


if __name__ == "__main__":
    sys.exit(main(walk, __doc__))

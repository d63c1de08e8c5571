"""What must hold for every job when all is over, whatever was killed in between."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from faults.traffic import Job, Traffic
from faults.yard import FaultyYard, until

_EPOCH = re.compile(r" epoch (\d+)/(\d+) ")
_FINAL = ("Done", "Error", "Canceled")


@dataclass(frozen=True)
class Violation:
    kind: str
    job: str
    what: str


def check_all(yard: FaultyYard, traffic: Traffic) -> list[Violation]:
    """Return everything that is not as promised."""
    jobs = [job for job in traffic.jobs if job.posted]
    found = [Violation(*one) for one in (*traffic.watch.violations, *traffic.violations)]
    found += [Violation("server error", "", fault) for fault in yard.rest.faults]
    listed = _all_jobs(yard)
    named = Counter((job["experiment_id"], job["name"]) for job in listed)
    for (experiment, name), count in named.items():
        if count > 1:
            found.append(Violation("doubled job", "", f"{name} of experiment {experiment} was made {count} times"))
    by_id = {job["id"]: job for job in listed}
    for job in jobs:
        if job.id not in by_id:
            found.append(Violation("lost job", job.id, f"{job.name} was answered 201 and is not listed"))
            continue
        found += [Violation(kind, job.id, what) for kind, what in _check_job(yard, traffic, job)]
    ghosts = set(_flow_runs(yard)) - set(by_id)
    found += [Violation("doubled job", ghost, "a flow run that is no job in REST") for ghost in sorted(ghosts)]
    return found


def expected_states(job: Job) -> tuple[str, ...]:
    """Return how a job may end."""
    if job.cancelled:
        return ("Canceled", "Done") if job.cancel_may_lose else ("Canceled",)
    if job.parent is not None and job.parent.cancelled:
        return ("Canceled", "Done") if job.parent.cancel_may_lose else ("Canceled",)
    return ("Done",)


def _check_job(yard: FaultyYard, traffic: Traffic, job: Job) -> list[tuple[str, str]]:
    def final() -> dict[str, Any] | None:
        shown = yard.rest.get(traffic.path(job))
        return shown if shown["status"] in _FINAL else None

    try:
        shown = until(final, "the end in REST", 15, every_s=0.5)
    except Exception:  # noqa: BLE001 - whatever it is, it is what is reported
        shown = yard.rest.get(traffic.path(job))
        return [("wrong end state", f"REST says {shown['status']}, Prefect {job.state.get('type')}")]
    message = shown["result"].get("detailed_status", {}).get("message", "")
    if shown["status"] not in expected_states(job):
        wanted = " or ".join(expected_states(job))
        return [("wrong end state", f"{job.name} is {shown['status']}, not {wanted}: {message}")]
    found = _check_log(yard, job, shown["status"])
    if shown["status"] == "Done":
        found += _check_files(yard, job, shown)
        if job.action == "train":
            found += _check_metrics(yard, job)
    return found


def _check_log(yard: FaultyYard, job: Job, status: str) -> list[tuple[str, str]]:
    end = "Done EOF" if status == "Done" else "Error EOF"

    def ended() -> str | None:
        text = yard.log(job.id).read_text(errors="replace") if yard.log(job.id).exists() else ""
        return text if text.endswith(f"\n{end}\n") else None

    try:
        text = until(ended, "the last line", 10, every_s=0.2)
    except Exception:  # noqa: BLE001 - as above
        text = yard.log(job.id).read_text(errors="replace") if yard.log(job.id).exists() else ""
        return [("lost log lines", f"the log of a job that is {status} ends with {text[-120:]!r}")]
    found = []
    if (count := text.count(" EOF\n")) > 1:
        found.append(("lost log lines", f"the log has {count} last lines"))
    if status == "Done" and job.action == "train":
        told = {int(number) for number, _ in _EPOCH.findall(text)}
        if missing := set(range(1, job.epochs + 1)) - told:
            found.append(("lost log lines", f"no line of epochs {sorted(missing)}"))
    return found


def _check_files(yard: FaultyYard, job: Job, shown: dict[str, Any]) -> list[tuple[str, str]]:
    folder = yard.job_folder(job.id)
    result = json.loads((folder / "result.json").read_text())
    found = []
    for artifact in result["artifacts"]:
        file = folder / artifact["path"]
        if not file.exists():
            found.append(("damaged files", f"{artifact['path']} is missing"))
        elif sha256(file) != artifact["sha256"] or file.stat().st_size != artifact["size_bytes"]:
            found.append(("damaged files", f"{artifact['path']} is not what result.json says"))
    tar, stats = yard.storage / "downloads" / f"{job.id}.tar.gz", shown["job_tar_stats"]
    if not tar.exists() or not stats:
        found.append(("damaged files", f"no download: {stats}"))
    elif sha256(tar) != stats["sha256_digest"] or tar.stat().st_size != stats["file_size"]:
        found.append(("damaged files", "the download is not what the job says"))
    if job.action == "train":
        epochs = [entry["epoch"] for entry in result["history"]]
        if epochs != list(range(1, job.epochs + 1)):
            found.append(("damaged files", f"history of result.json has epochs {epochs}, not 1 to {job.epochs}"))
        if not any(a["kind"] == "weights" and a["epoch"] == job.epochs for a in result["artifacts"]):
            found.append(("damaged files", "no weights of the last epoch"))
    for left in (p for p in folder.rglob("*") if p.name.endswith(".tmp") or p.name.startswith(".incoming")):
        found.append(("damaged files", f"{left.relative_to(folder)} was left behind"))
    return found


def _check_metrics(yard: FaultyYard, job: Job) -> list[tuple[str, str]]:
    run_id = json.loads((yard.job_folder(job.id) / "result.json").read_text())["mlflow_run_id"]
    found = []
    for key in ("train_loss", "accuracy_top-1"):
        steps = [int(metric["step"]) for metric in _metric(yard, run_id, key)]
        if missing := set(range(1, job.epochs + 1)) - set(steps):
            found.append(("lost metrics", f"MLflow has no {key} of epochs {sorted(missing)}"))
        if foreign := set(steps) - set(range(1, job.epochs + 1)):
            found.append(("lost metrics", f"MLflow has {key} of epochs {sorted(foreign)}"))
    status = _mlflow(yard, "runs/get", run_id=run_id)["run"]["info"]["status"]
    if status != "FINISHED":
        found.append(("lost metrics", f"the MLflow run is {status}"))
    return found


def _metric(yard: FaultyYard, run_id: str, key: str) -> list[dict[str, Any]]:
    return list(_mlflow(yard, "metrics/get-history", run_id=run_id, metric_key=key).get("metrics", []))


def _mlflow(yard: FaultyYard, what: str, **query: str) -> dict[str, Any]:
    answer = httpx.get(f"{yard.mlflow_url}/api/2.0/mlflow/{what}", params=query, timeout=30)
    return dict(answer.raise_for_status().json())


def _all_jobs(yard: FaultyYard) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []
    while True:
        page = yard.rest.get(f"experiments/all/jobs?skip={len(jobs)}&size=100&sort=date-ascending")["jobs"]
        jobs += page
        if len(page) < 100:
            return jobs


def _flow_runs(yard: FaultyYard) -> list[str]:
    """Return the ids of all flow runs of train and evaluate."""
    ids: list[str] = []
    while True:
        body = {"flows": {"name": {"any_": ["train", "evaluate"]}}, "limit": 200, "offset": len(ids), "sort": "ID_DESC"}
        page = yard.prefect.post("flow_runs/filter", json=body).raise_for_status().json()
        ids += [run["id"] for run in page]
        if len(page) < 200:
            return ids


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

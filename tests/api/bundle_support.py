"""Bundles for tests."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import httpx
from facade_support import Member
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.bundles import Environment, ModelFile, ParentModel, TrainedModel, TrainingRecord

EXAMPLE = Path(__file__).parents[2] / "examples" / "bundle"

MANIFEST = """
name = "small"
[parameters]
epochs = 2
[metrics]
accuracy = "maximize"
[[stages]]
name = "train"
entry_point = "code/train.py"
inputs = ["data/x.txt"]
"""


def small_bundle(changes: Mapping[str, str | bytes | None] | None = None) -> dict[str, bytes]:
    """Return the files of a bundle; `changes` replace or add some, or take them away."""
    content: dict[str, str | bytes | None] = {
        "bundle.toml": MANIFEST,
        "code/train.py": "print('trained')\n",
        "data/x.txt": "1 2 3\n",
        **(changes or {}),
    }
    return {
        name: data.encode() if isinstance(data, str) else data for name, data in content.items() if data is not None
    }


def make_zip(files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return content.getvalue()


def example_files() -> dict[str, bytes]:
    files = sorted(path for path in EXAMPLE.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(EXAMPLE).as_posix(): path.read_bytes() for path in files}


def train_client(member: Member) -> httpx.Client:
    """Return a client whose paths are those of the document, below /train/."""
    headers = {"Authorization": f"Bearer {member.token}"}
    return httpx.Client(base_url=f"{member.facade.url}/train/", headers=headers, timeout=60)


def leave_models(member: Member, job_id: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Write what the task of a job would have written: one model for each name, with its metrics."""
    storage, folder = member.facade.storage, layout.job(member.org, job_id)
    models = []
    for number, (name, values) in enumerate(metrics.items(), start=1):
        storage.write_bytes(f"{folder}/{layout.MODELS}/{name}", name.encode())
        file = ModelFile(path=name, size_bytes=len(name), sha256="f" * 64)
        models.append(
            TrainedModel(
                number=number,
                name=name,
                files=[file],
                sha256="a" * 64,
                metrics=dict(values),
                step=number,
                created_at=datetime.now(UTC),
            )
        )
    record = TrainingRecord(
        environment=Environment(sha256="e" * 64, python="3.11.7", platform="Linux", packages=["numpy==2.4.6"]),
        parameters={"epochs": 2},
        metrics={"loss": 0.25},
        models=models,
        parents=[ParentModel(model_id=f"{job_id}-1", job_id=job_id, sha256="b" * 64)],
        mlflow_run_id="run1",
    )
    storage.write_json(f"{folder}/{layout.TRAINING}", json.loads(record.model_dump_json()))

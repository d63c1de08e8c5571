from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import QUICK_TRAIN, Chain, Yard, upload_dataset, wait_for_job


@pytest.fixture(scope="session")
def chain(yard: Yard, digits: Path) -> Iterator[Chain]:
    """Made once: a train job and an export job take some seconds."""
    with yard.client() as client:
        train_set = upload_dataset(client, digits / "train_1.tar.gz")
        eval_set = upload_dataset(client, digits / "eval.tar.gz")
        body = {"network_arch": "classification_pyt", "name": "chain", "encryption_key": "k"}
        experiment = client.post("experiments", json=body).json()["id"]
        patch = {"train_datasets": [train_set], "eval_dataset": eval_set, "calibration_dataset": train_set}
        assert client.patch(f"experiments/{experiment}", json=patch).status_code == 200
        jobs = f"experiments/{experiment}/jobs"

        def run(action: str, specs: dict[str, Any], parent: str | None) -> str:
            sent = client.post(jobs, json={"action": action, "specs": specs, "parent_job_id": parent})
            assert sent.status_code == 201, sent.text
            ended = wait_for_job(client, f"{jobs}/{sent.json()}")
            assert ended["status"] == "Done", ended
            return str(sent.json())

        train = run("train", QUICK_TRAIN, None)
        yield Chain(client, train_set, eval_set, experiment, train, run("export", {}, train))

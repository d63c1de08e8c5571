"""What MLflow is told of jobs that run at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import mlflow
import pytest
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.tasks.context import JobContext, JobFolder
from prefect_trainyard.tasks.tracking import Tracking

JOBS, ROUNDS = 4, 8


def test_jobs_that_bring_the_same_new_data_at_once_all_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    storage = ArtifactStorage(url=f"file://{tmp_path}/storage")
    jobs = [JobContext(org="acme", job_id=str(n), experiment="acme/same", storage=storage) for n in range(JOBS)]
    runs = [Tracking(job, JobFolder(storage, job.path, tmp_path / "scratch" / job.job_id)) for job in jobs]
    barrier = Barrier(JOBS)

    def describe(run: Tracking, new: int) -> None:
        barrier.wait(60)
        datasets = dict.fromkeys(("train", "eval"), (f"file:///data/{new}", f"{new}" * 32))
        run.describe(title="a job", action="train", network="unet", spec={}, parent=None, datasets=datasets)

    with ThreadPoolExecutor(JOBS) as pool:
        for new in range(ROUNDS):
            for told in [pool.submit(describe, run, new) for run in runs]:
                told.result(120)

    client = mlflow.MlflowClient()
    for run in runs:
        run.writer.close(60)
        known = client.get_run(run.run_id).inputs.dataset_inputs
        assert {(each.dataset.name, each.dataset.digest[0]) for each in known} == {
            (role, str(new)) for role in ("train", "eval") for new in range(ROUNDS)
        }

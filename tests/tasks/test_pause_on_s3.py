from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
from prefect import _flow_run_suspension as suspension
from prefect import flow
from prefect.exceptions import Pause
from prefect.states import Suspended
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.tasks import train
from prefect_trainyard.tasks.context import JobContext, running_as
from prefect_trainyard.tasks.reporter import JobReporter
from support import QUICK_TRAIN, poll

SPEC: dict[str, Any] = {**QUICK_TRAIN, "train": {"train_config": {"runner": {"max_epochs": 8}}}}
FOLDER = "acme/jobs/1"


@flow
def job(train_folder: str, eval_folder: str, storage: ArtifactStorage) -> JobResult:
    with running_as(JobContext(org="acme", job_id="1", experiment="acme/pause", storage=storage)):
        return train(train_folder, eval_folder, network="classification_pyt", spec=SPEC)


def is_manifest(path: str) -> bool:
    return "checkpoint_" in path and path.endswith(".json")


@pytest.mark.long
def test_a_paused_job_goes_on_elsewhere_from_what_is_on_s3(
    digits: Path, tmp_path: Path, s3_storage: ArtifactStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("prefect_trainyard.tasks.tracking.KILLED_PATIENCE_S", 60.0)
    monkeypatch.chdir(tmp_path)
    data = str(digits / "train"), str(digits / "eval")

    tell = JobReporter.epoch

    def tell_and_pause(self: JobReporter, epoch: int, *rest: Any) -> None:
        """Suspend the run when its first checkpoint is in the storage, as somebody in the Prefect UI does."""
        tell(self, epoch, *rest)
        if epoch == 3:
            poll(lambda: any(is_manifest(f.path) for f in s3_storage.list_files(FOLDER)), "a checkpoint")
            for run_id in list(suspension._active_flow_run_suspension_requests):
                suspension.mark_flow_run_suspension_requested(run_id, Suspended())

    with monkeypatch.context() as patch, pytest.raises(Pause):
        patch.setattr(JobReporter, "epoch", tell_and_pause)
        job(*data, s3_storage)
    client = mlflow.MlflowClient()
    run_id = s3_storage.read_json(f"{FOLDER}/mlflow_run.json")["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"
    assert not s3_storage.exists(f"{FOLDER}/result.json")
    s3_storage.download_folder(FOLDER, tmp_path / "down")
    found = newest_checkpoint(tmp_path / "down" / "train")
    assert found is not None
    # A newer one that was half uploaded when its machine died.
    s3_storage.write_bytes(f"{FOLDER}/train/checkpoint_epoch_099.pth", found[0].read_bytes()[:1000])
    manifest = found[1].model_copy(update={"epoch": 99, "step": 10**6}).model_dump_json().encode()
    s3_storage.write_bytes(f"{FOLDER}/train/checkpoint_epoch_099.json", manifest)

    result = job(*data, s3_storage)
    assert result.mlflow_run_id == run_id
    assert [e.epoch for e in result.history] == list(range(1, 9))
    for name in result.history[0].metrics:
        assert sorted(m.step for m in client.get_metric_history(run_id, name)) == list(range(1, 9))
    names = [file.path for file in s3_storage.list_files(FOLDER)]
    assert len([name for name in names if "checkpoint_" in name]) == 2

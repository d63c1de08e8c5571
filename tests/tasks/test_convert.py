from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
from prefect import flow
from prefect_trainyard.schemas.errors import DatasetError, NotFound
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.tasks import convert


@pytest.fixture(autouse=True)
def _local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", f"file://{tmp_path}/storage")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)


@flow
def convert_it(folder: str, format: str = "default") -> JobResult:
    return convert(folder, format=format)


def test_a_folder_becomes_an_index_with_a_record(digits: Path, tmp_path: Path) -> None:
    result = convert_it(str(digits / "eval"))
    assert result.kpi == {"images": 270.0, "classes": 10.0}
    assert result.classes == [str(n) for n in range(10)]
    folder = tmp_path / "storage" / result.uri.removeprefix(f"file://{tmp_path}/storage/")
    assert (folder / "index" / "images.bin").stat().st_size == next(
        a.size_bytes for a in result.artifacts if a.path == "index/images.bin"
    )
    assert JobResult.model_validate_json((folder / "result.json").read_text()) == result
    run = mlflow.MlflowClient().get_run(result.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs[0].dataset.digest == result.dataset_digests["source"][:32]
    assert run.data.tags["trainyard.job_id"] == result.job_id


def test_unlabelled_images_are_indexed_as_raw(digits: Path) -> None:
    result = convert_it(str(digits / "test"), "raw")
    assert result.kpi == {"images": 270.0, "classes": 0.0}


def test_a_missing_folder_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no data set folder"):
        convert_it(str(tmp_path / "nowhere"))
    (run,) = mlflow.MlflowClient().search_runs([e.experiment_id for e in mlflow.MlflowClient().search_experiments()])
    assert run.info.status == "FAILED"


def test_an_empty_folder_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        convert_it(str(tmp_path / "empty"))

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import flow
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.schemas.results import JobResult
from prefect_trainyard.tasks import convert, evaluate, gen_trt_engine, inference, train
from prefect_trainyard.tasks import export as export_task
from support import QUICK_TRAIN


@flow
def chain(train_folder: str, eval_folder: str, raw_folder: str) -> list[JobResult]:
    data, test = convert(train_folder), convert(eval_folder)
    model = train(data, test, network="classification_pyt", spec=QUICK_TRAIN)
    graph = export_task(model, test)
    spec = {"gen_trt_engine": {"backend": "onnxruntime", "tensorrt": {"data_type": "int8"}}}
    engine = gen_trt_engine(graph, data, spec=spec)
    return [
        model,
        evaluate(model, test),
        engine,
        evaluate(engine, test),
        inference(engine, convert(raw_folder, format="raw")),
    ]


@pytest.mark.long
def test_a_chain_with_all_its_files_on_s3(
    digits: Path, tmp_path: Path, s3_storage: ArtifactStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", s3_storage.url)
    monkeypatch.setenv("TRAINYARD_STORAGE_ENDPOINT_URL", str(s3_storage.endpoint_url))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    model, by_weights, engine, by_engine, predicted = chain(
        str(digits / "train"), str(digits / "eval"), str(digits / "test")
    )
    assert by_weights.kpi["accuracy_top-1"] > 0.5
    assert abs(by_weights.kpi["accuracy_top-1"] - by_engine.kpi["accuracy_top-1"]) <= 0.02
    assert model.uri.startswith(s3_storage.url)
    for result in (model, engine, predicted):
        stored = {f.path: f.size_bytes for f in s3_storage.list_files(s3_storage.relative(result.uri))}
        assert "result.json" in stored
        for artifact in result.artifacts:
            assert stored[artifact.path] == artifact.size_bytes

from __future__ import annotations

import pytest
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import NotFound
from prefect_trainyard.schemas.jobs import ModelChoice
from prefect_trainyard.schemas.model_choice import choose_model
from prefect_trainyard.schemas.results import Artifact, ArtifactKind, JobResult


def trained(*epochs: int, best: int | None = None) -> JobResult:
    return JobResult(
        action=Action.TRAIN,
        network="classification_pyt",
        uri="file:///storage/acme/jobs/1",
        job_id="1",
        artifacts=[
            Artifact(path="train/checkpoint.pth", kind=ArtifactKind.CHECKPOINT, epoch=99),
            *(Artifact(path=f"train/{e}.safetensors", kind=ArtifactKind.WEIGHTS, epoch=e) for e in epochs),
        ],
        best_epoch=best,
        latest_epoch=max(epochs, default=None),
    )


@pytest.mark.parametrize(
    ("choice", "epoch"),
    [
        (ModelChoice(), 7),
        (ModelChoice(method="latest_model"), 12),
        (ModelChoice(method="from_epoch_number", epoch=10), 10),
        (ModelChoice(method="from_epoch_number", epoch=3), 12),
        (ModelChoice(method="from_epoch_number"), 12),
    ],
)
def test_the_choice_of_weights_follows_the_documents(choice: ModelChoice, epoch: int) -> None:
    assert choose_model(trained(7, 10, 12, best=7), choice).epoch == epoch


def test_an_engine_and_a_graph_are_what_their_jobs_are_about() -> None:
    for action, kind in ((Action.EXPORT, ArtifactKind.ONNX), (Action.GEN_TRT_ENGINE, ArtifactKind.ENGINE)):
        files = [Artifact(path="x/report.json", kind=ArtifactKind.REPORT), Artifact(path="x/model", kind=kind)]
        made = JobResult(action=action, uri="file:///s/a/jobs/1", artifacts=files)
        assert choose_model(made, ModelChoice()).path == "x/model"


def test_a_parent_without_a_model_is_named() -> None:
    with pytest.raises(NotFound, match="The parent job 1 left no weights"):
        choose_model(trained(), ModelChoice())

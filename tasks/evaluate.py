"""The evaluate action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.jobs import ModelChoice
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="evaluate")
def evaluate(
    parent: ParentLike,
    data: DatasetLike,
    *,
    spec: dict[str, object] | None = None,
    model: ModelChoice | None = None,
) -> JobResult:
    """Measure the model of `parent` (weights, ONNX file or engine) on a labelled data set."""
    return run_network_action(
        Action.EVALUATE,
        lambda i: i.implementation.evaluate(i.spec, model=i.model, data=i.data["eval"], out=i.out, reporter=i.reporter),
        network=None,
        spec=spec,
        datasets={"eval": data},
        parent=parent,
        choice=model,
    )

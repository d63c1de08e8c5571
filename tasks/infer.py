"""The inference action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.jobs import ModelChoice
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="inference")
def inference(
    parent: ParentLike,
    data: DatasetLike,
    *,
    spec: dict[str, object] | None = None,
    model: ModelChoice | None = None,
) -> JobResult:
    """Predict every image of `data` with the weights, ONNX file or engine of `parent`."""
    return run_network_action(
        Action.INFERENCE,
        lambda i: i.implementation.infer(
            i.spec, model=i.model, data=i.data["inference"], out=i.out, reporter=i.reporter
        ),
        network=None,
        spec=spec,
        datasets={"inference": data},
        parent=parent,
        choice=model,
    )

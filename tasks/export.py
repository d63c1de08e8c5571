"""The export action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.jobs import ModelChoice
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="export")
def export(
    parent: ParentLike,
    data: DatasetLike | None = None,
    *,
    spec: dict[str, object] | None = None,
    model: ModelChoice | None = None,
) -> JobResult:
    """Write the model of `parent` as ONNX; on every image of `data` it must agree with PyTorch."""
    return run_network_action(
        Action.EXPORT,
        lambda i: i.implementation.export(
            i.spec, model=i.model, data=i.data.get("eval"), out=i.out, reporter=i.reporter
        ),
        network=None,
        spec=spec,
        datasets={"eval": data},
        parent=parent,
        choice=model,
    )

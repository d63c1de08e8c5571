"""The prune action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.jobs import ModelChoice
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="prune")
def prune(
    parent: ParentLike,
    data: DatasetLike | None = None,
    *,
    spec: dict[str, object] | None = None,
    model: ModelChoice | None = None,
) -> JobResult:
    """Remove the channels that matter least from the model of `parent`; `retrain` heals the rest."""
    return run_network_action(
        Action.PRUNE,
        lambda i: i.implementation.prune(
            i.spec, model=i.model, data=i.data.get("train"), out=i.out, reporter=i.reporter
        ),
        network=None,
        spec=spec,
        datasets={"train": data},
        parent=parent,
        choice=model,
    )

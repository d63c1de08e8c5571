"""The retrain action: training that goes on from a pruned or trained model."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.jobs import ModelChoice
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="retrain")
def retrain(
    parent: ParentLike,
    data: DatasetLike,
    eval_data: DatasetLike | None = None,
    *,
    spec: dict[str, object] | None = None,
    model: ModelChoice | None = None,
) -> JobResult:
    """Train the model of `parent` further, most often one that was pruned, in its own shapes."""
    return run_network_action(
        Action.RETRAIN,
        lambda i: i.implementation.retrain(
            i.spec,
            train_data=i.data["train"],
            eval_data=i.data.get("eval"),
            out=i.out,
            weights=i.model,
            reporter=i.reporter,
        ),
        network=None,
        spec=spec,
        datasets={"train": data, "eval": eval_data},
        parent=parent,
        choice=model,
    )

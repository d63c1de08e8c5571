"""The train action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.results import JobResult
from .data import DatasetLike
from .execution import ParentLike, run_network_action


@task(name="train")
def train(
    data: DatasetLike,
    eval_data: DatasetLike | None = None,
    *,
    network: str | None = None,
    spec: dict[str, object] | None = None,
    parent: ParentLike | None = None,
    base_weights: str | None = None,
) -> JobResult:
    """Train a network and return the record with its checkpoints and metrics.

    `data` and `eval_data` are results of `convert`, addresses of data sets in the storage, or
    local folders with one folder of images per class. `base_weights` is the storage path of
    pretrained weights. A job that was stopped goes on at its newest checkpoint.
    """
    return run_network_action(
        Action.TRAIN,
        lambda i: i.implementation.train(
            i.spec,
            train_data=i.data["train"],
            eval_data=i.data.get("eval"),
            out=i.out,
            weights=i.model,
            reporter=i.reporter,
        ),
        network=network,
        spec=spec,
        datasets={"train": data, "eval": eval_data},
        parent=parent,
        base_weights=base_weights,
    )

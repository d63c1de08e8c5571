"""The train action."""

from __future__ import annotations

from prefect import task

from ..schemas.actions import Action
from ..schemas.errors import InvalidInput
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
    until_epoch: int | None = None,
) -> JobResult:
    """Train a network and return the record with its checkpoints and metrics.

    `data` and `eval_data` are results of `convert`, addresses of data sets in the storage, or
    local folders with one folder of images per class. `base_weights` is the storage path of
    pretrained weights. A job that was stopped goes on at its newest checkpoint. With `until_epoch` the job
    trains until that epoch of those that the spec asks for; called again with a later one, it goes on.

    Raises:
        InvalidInput: `until_epoch` is below 1.
        YardError: bad spec, data or parent; see `schemas.errors`.
    """
    if until_epoch is not None and until_epoch < 1:
        raise InvalidInput(f"until_epoch is {until_epoch}.", hint="The first epoch is 1; None trains all of them.")
    # why: networks of other distributions need not know the word.
    part = {} if until_epoch is None else {"until_epoch": until_epoch}
    return run_network_action(
        Action.TRAIN,
        lambda i: i.implementation.train(
            i.spec,
            train_data=i.data["train"],
            eval_data=i.data.get("eval"),
            out=i.out,
            weights=i.model,
            reporter=i.reporter,
            **part,
        ),
        network=network,
        spec=spec,
        datasets={"train": data, "eval": eval_data},
        parent=parent,
        base_weights=base_weights,
    )

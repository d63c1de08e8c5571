"""The augment action: a data set with changed copies of its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from ..datasets.box_augment import augment_boxes
from ..datasets.specs import AugmentationSpec
from ..schemas.actions import Action
from ..schemas.results import JobResult, Output
from .dataset_execution import DATASET, DatasetInputs, dataset_files, run_dataset_action


@task(name="augment")
def augment(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
) -> JobResult:
    """Write a data set with boxes and changed copies of its pictures into the folder `dataset` of the job.

    It has the format of the original. `data`, `format` and `type` are as for `convert`.

    Raises:
        DatasetError: the data set is broken.
    """
    return run_dataset_action(Action.AUGMENT, _augment, data=data, format=format, type=type, spec=spec)


def _augment(inputs: DatasetInputs) -> Output:
    spec = inputs.spec
    assert isinstance(spec, AugmentationSpec)
    boxes = augment_boxes(
        inputs.root,
        inputs.kind.name,
        inputs.out / DATASET,
        spec.options(),
        options=spec.read_options(masks=inputs.needs_masks),
        reporter=inputs.reporter,
    )
    counts = boxes.class_counts()
    return Output(
        artifacts=dataset_files(inputs.out),
        kpi={"images": float(len(boxes.pictures)), "boxes": float(boxes.box_count)},
        categorical={"boxes": {name: float(count) for name, count in counts.items()}} if counts else {},
        classes=boxes.class_names,
        message=f"The new data set has {len(boxes.pictures)} images with {boxes.box_count} boxes.",
    )

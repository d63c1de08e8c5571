"""The annotation_format_convert action: a data set with boxes in another format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from ..datasets.box_convert import convert_annotations
from ..datasets.specs import FormatConversionSpec
from ..schemas.actions import Action
from ..schemas.errors import InvalidInput
from ..schemas.results import JobResult, Output
from .dataset_execution import DATASET, DatasetInputs, dataset_files, run_dataset_action


@task(name="annotation_format_convert")
def annotation_format_convert(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
) -> JobResult:
    """Write a data set with boxes in another format, pictures included, into the folder `dataset` of the job.

    `data`, `format` and `type` are as for `convert`.

    Raises:
        DatasetError: the data set is broken, or the other format cannot hold it.
        InvalidInput: the spec names another format than the data set has.
    """
    action = Action.ANNOTATION_FORMAT_CONVERT
    return run_dataset_action(action, _convert, data=data, format=format, type=type, spec=spec)


def _convert(inputs: DatasetInputs) -> Output:
    spec, own = inputs.spec, inputs.kind.name
    assert isinstance(spec, FormatConversionSpec)
    given = (spec.data.input_format or own).lower()
    if given != own:
        raise InvalidInput(
            f"data.input_format: it is {given}, and the data set is in the format {own}.", hint="Leave it out."
        )
    target = (spec.data.output_format or ("KITTI" if own == "coco" else "COCO")).lower()
    if target == own:
        raise InvalidInput(
            f"data.output_format: the data set is in the format {own} already.", hint="Name another format."
        )
    boxes = convert_annotations(
        inputs.root,
        own,
        inputs.out / DATASET,
        target,
        options=spec.read_options(),
        rename=spec.new_names,
        reporter=inputs.reporter,
    )
    counts = boxes.class_counts()
    return Output(
        artifacts=dataset_files(inputs.out),
        kpi={
            "images": float(len(boxes.pictures)),
            "boxes": float(boxes.box_count),
            "classes": float(len(boxes.classes)),
        },
        categorical={"boxes": {name: float(count) for name, count in counts.items()}} if counts else {},
        classes=boxes.class_names,
        message=f"{len(boxes.pictures)} images with {boxes.box_count} boxes written in the format {target}.",
    )

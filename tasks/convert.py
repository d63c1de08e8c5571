"""The convert actions: a data set becomes its canonical indexed form."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from ..datasets.box_index import BoxIndexInfo
from ..schemas.actions import Action
from ..schemas.results import ArtifactKind, JobResult, Output
from .data import INDEX
from .dataset_execution import DatasetInputs, artifacts, run_dataset_action


@task(name="convert")
def convert(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
    action: Action = Action.CONVERT,
) -> JobResult:
    """Index a data set once, so that later jobs read it in one piece.

    `data` is the address of an uploaded data set or a local folder of images; `format` and `type` are for the folder:
    `default` (one folder per class), `unet` (images and masks), `kitti`, `coco` or `pascal_voc` (boxes) or `raw` (no
    labels). The index lies in the folder `index` of the job. All actions that convert do the same.

    Raises:
        DatasetError: the data set is empty, broken or not of its format.
        NotFound: there is no such data set.
    """
    return run_dataset_action(action, _index, data=data, format=format, type=type, spec=spec)


def _index(inputs: DatasetInputs) -> Output:
    folder = inputs.out / INDEX
    info = inputs.kind.build_index(inputs.root, folder, inputs.reporter, inputs.spec)
    counts = info.class_counts
    boxes = info.boxes if isinstance(info, BoxIndexInfo) else None
    classes = len(info.classes or counts)
    counted = f"{info.count} images" if boxes is None else f"{info.count} images with {boxes} boxes"
    return Output(
        artifacts=artifacts(sorted(f for f in folder.iterdir() if f.is_file()), inputs.out, ArtifactKind.INDEX),
        kpi={
            "images": float(info.count),
            "classes": float(classes),
            **({} if boxes is None else {"boxes": float(boxes)}),
        },
        categorical={"images" if boxes is None else "boxes": {name: float(n) for name, n in counts.items()}}
        if counts
        else {},
        classes=list(info.classes),
        message=f"{counted} of {classes} classes indexed.",
    )

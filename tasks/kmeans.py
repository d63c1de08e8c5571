"""The kmeans action: the sizes of boxes that a network with anchors should begin from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from prefect import task

from ..datasets.anchors import box_sizes, kmeans_anchors
from ..datasets.box_checks import Outside
from ..datasets.box_folder import ReadOptions
from ..datasets.box_formats import read_boxes
from ..datasets.specs import AnchorSpec
from ..schemas.actions import Action
from ..schemas.results import ArtifactKind, JobResult, Output
from .dataset_execution import DatasetInputs, artifacts, run_dataset_action


@task(name="kmeans")
def kmeans(
    data: str | Path,
    *,
    format: str | None = None,
    type: str | None = None,
    spec: Mapping[str, object] | None = None,
) -> JobResult:
    """Find anchors that fit the boxes of a data set and write them as `anchors.json`, smallest first.

    Boxes are cut off at their picture. `data`, `format` and `type` are as for `convert`.

    Raises:
        DatasetError: the data set is broken, or its boxes have too few sizes.
    """
    return run_dataset_action(Action.KMEANS, _kmeans, data=data, format=format, type=type, spec=spec)


def _kmeans(inputs: DatasetInputs) -> Output:
    spec = inputs.spec
    assert isinstance(spec, AnchorSpec)
    boxes = read_boxes(inputs.root, inputs.kind.name, ReadOptions(outside=Outside.CLIP))
    size = spec.size_x, spec.size_y
    sizes = box_sizes(boxes, size, letterbox=spec.resizing == "letterbox", min_side=spec.min_side)
    found = kmeans_anchors(sizes, spec.num_clusters, seed=spec.seed)
    anchors = [(round(width, 2), round(height, 2)) for width, height in found.sizes]
    file = inputs.out / "anchors.json"
    told = {"input_size": size, "resizing": spec.resizing, "anchors": anchors, "mean_iou": found.mean_iou}
    file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    listed = ", ".join(f"({width:g}, {height:g})" for width, height in anchors)
    return Output(
        artifacts=artifacts([file], inputs.out, ArtifactKind.REPORT),
        kpi={"mean_iou": found.mean_iou, "boxes": float(len(sizes))},
        categorical={
            side: {f"anchor {number}": anchor[axis] for number, anchor in enumerate(anchors, start=1)}
            for axis, side in enumerate(("width", "height"))
        },
        message=f"Anchors for {spec.size_x} x {spec.size_y} pixels: {listed}; mean IoU {found.mean_iou:.3f}.",
    )

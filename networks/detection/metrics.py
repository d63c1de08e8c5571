"""Average precision as COCO defines it, over all classes and per class.

Shapes: N boxes of one picture; N4 left, top, right, bottom in pixels of the picture itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE
from .pictures import label_map

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: COCO counts this many boxes a picture, the surest first.
MAX_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in a picture."""

    boxes: Floats
    """N4."""
    labels: Ints
    """N: positions in the classes; DONT_CARE for regions to ignore, whatever is found there."""
    is_ignored: Bools
    """N: crowds and the like: finding them is neither right nor wrong."""
    areas: Floats
    """N: square pixels of the objects, which decide whether they are small, medium or large."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a network found in a picture, in any order."""

    boxes: Floats
    """N4."""
    scores: Floats
    """N: how sure it is; larger is surer."""
    labels: Ints
    """N: positions in the classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All from 0 to 1. What has nothing to be measured by, such as a class without objects, is left out."""

    kpi: dict[str, float]
    """mAP (IoU 0.50 to 0.95), mAP50, mAP75, mAP_small, mAP_medium, mAP_large, mAR100."""
    ap: dict[str, float]
    """Class name to its AP, IoU 0.50 to 0.95."""
    ap50: dict[str, float]


def truths(index: BoxIndex, classes: Sequence[str], *, ignore_difficult: bool = True) -> list[Truth]:
    """Return what is in the pictures of an index; `ignore_difficult` as Pascal VOC does.

    Raises:
        DatasetError: the set has no boxes, or classes that are not in `classes`.
    """
    positions = label_map(index, classes, "evaluation")
    labels = np.where(index.box_labels == DONT_CARE, DONT_CARE, positions[index.box_labels])
    ignored = index.is_ignored | index.is_difficult if ignore_difficult else index.is_ignored
    return [
        Truth(index.edges[rows], labels[rows], ignored[rows], index.areas[rows])
        for rows in map(index.of, range(len(index)))
    ]


def score(truth: Sequence[Truth], found: Sequence[Detections], classes: Sequence[str]) -> Scores:
    """Return how well `found` fits `truth`, picture by picture."""
    evaluation = _evaluate(truth, found, len(classes))
    # Axes: T IoU 0.50 to 0.95, R recall, K class, A all/small/medium/large, M 1/10/100 boxes. -1: nothing to measure.
    precision_TRKAM, recall_TKAM = evaluation.eval["precision"], evaluation.eval["recall"]
    thresholds = [round(float(t), 2) for t in evaluation.params.iouThrs]
    at_50, at_75 = thresholds.index(0.5), thresholds.index(0.75)
    whole = precision_TRKAM[..., 0, -1]
    kpi = {
        "mAP": whole,
        "mAP50": whole[at_50],
        "mAP75": whole[at_75],
        "mAP_small": precision_TRKAM[..., 1, -1],
        "mAP_medium": precision_TRKAM[..., 2, -1],
        "mAP_large": precision_TRKAM[..., 3, -1],
        "mAR100": recall_TKAM[..., 0, -1],
    }
    return Scores(
        kpi=_means(kpi.items()),
        ap=_means((name, whole[:, :, k]) for k, name in enumerate(classes)),
        ap50=_means((name, whole[at_50, :, k]) for k, name in enumerate(classes)),
    )


def _means(values: Iterable[tuple[str, npt.NDArray[np.float64]]]) -> dict[str, float]:
    known = {name: numbers[numbers > -1] for name, numbers in values}
    return {name: float(numbers.mean()) for name, numbers in known.items() if numbers.size}


def _evaluate(truth: Sequence[Truth], found: Sequence[Detections], classes: int) -> Any:
    coco = COCO(
        {
            "images": [{"id": number} for number in range(len(truth))],
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
            "annotations": list(_annotations(truth, classes)),
        }
    )
    rows = [
        np.column_stack(
            [
                np.full(len(one.scores), number),
                one.boxes[:, :2],
                one.boxes[:, 2:] - one.boxes[:, :2],
                one.scores,
                one.labels,
            ]
        )
        for number, one in enumerate(found)
        if len(one.scores)
    ]
    results = coco.loadRes(np.concatenate(rows)) if rows else COCO({**coco.dataset, "annotations": []})
    evaluation = COCOeval_faster(coco, results, "bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _annotations(truth: Sequence[Truth], classes: int) -> Iterable[dict[str, Any]]:
    number = 0
    for image, one in enumerate(truth):
        sizes = one.boxes[:, 2:] - one.boxes[:, :2]
        rows = zip(one.boxes.tolist(), sizes.tolist(), one.labels.tolist(), one.is_ignored, one.areas, strict=True)
        for (x, y, _, _), (width, height), label, is_ignored, area in rows:
            # why: a region to ignore is one for every class.
            for category in range(classes) if label == DONT_CARE else (label,):
                number += 1
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": float(area),
                    "iscrowd": int(is_ignored),
                }

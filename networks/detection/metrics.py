"""Average precision as COCO defines it, over all classes and per class.

Shapes: N boxes of one picture; N4 left, top, right, bottom in pixels of the picture itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE, RunLengths
from .masks import chosen, masks_of, to_coco
from .pictures import label_map, require_masks

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Kind = Literal["bbox", "segm"]

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
    masks: tuple[RunLengths, ...] | None = None
    """N, packed; None where boxes alone are compared."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a network found in a picture, in any order."""

    boxes: Floats
    """N4."""
    scores: Floats
    """N: how sure it is; larger is surer."""
    labels: Ints
    """N: positions in the classes."""
    masks: tuple[RunLengths, ...] | None = None
    """N, packed, in the pixels of the picture; None from networks of boxes alone."""

    def of(self, which: Bools) -> Detections:
        masks = None if self.masks is None else chosen(self.masks, which)
        return Detections(self.boxes[which], self.scores[which], self.labels[which], masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """All from 0 to 1. What has nothing to be measured by, such as a class without objects, is left out."""

    kpi: dict[str, float]
    """mAP (IoU 0.50 to 0.95), mAP50, mAP75, mAP_small, mAP_medium, mAP_large, mAR100; of masks with `mask_` before."""
    ap: dict[str, float]
    """Class name to its AP, IoU 0.50 to 0.95."""
    ap50: dict[str, float]


def truths(
    index: BoxIndex, classes: Sequence[str], *, ignore_difficult: bool = True, masks: bool = False
) -> list[Truth]:
    """Return what is in the pictures of an index, also its `masks`; `ignore_difficult` as Pascal VOC does.

    Raises:
        DatasetError: the set has no boxes, no masks for them, or classes that are not in `classes`.
    """
    if masks:
        require_masks(index, "evaluation")
    positions = label_map(index, classes, "evaluation")
    labels = np.where(index.box_labels == DONT_CARE, DONT_CARE, positions[index.box_labels])
    ignored = index.is_ignored | index.is_difficult if ignore_difficult else index.is_ignored
    return [
        Truth(index.edges[rows], labels[rows], ignored[rows], index.areas[rows], masks_of(index, i) if masks else None)
        for i, rows in enumerate(map(index.of, range(len(index))))
    ]


def kpi_of(truth: Sequence[Truth], found: Sequence[Detections], classes: Sequence[str]) -> dict[str, float]:
    """Return the `Scores.kpi` of boxes and, where the truth has them, of masks."""
    kinds: list[Kind] = ["bbox", "segm"] if truth and truth[0].masks is not None else ["bbox"]
    return {name: value for kind in kinds for name, value in score(truth, found, classes, kind).kpi.items()}


def score(truth: Sequence[Truth], found: Sequence[Detections], classes: Sequence[str], kind: Kind = "bbox") -> Scores:
    """Return how well the boxes (`bbox`) or masks (`segm`) of `found` fit `truth`, picture by picture."""
    evaluation = _evaluate(truth, found, len(classes), kind)
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
    prefix = "mask_" if kind == "segm" else ""
    return Scores(
        kpi=_means((f"{prefix}{name}", values) for name, values in kpi.items()),
        ap=_means((name, whole[:, :, k]) for k, name in enumerate(classes)),
        ap50=_means((name, whole[at_50, :, k]) for k, name in enumerate(classes)),
    )


def _means(values: Iterable[tuple[str, npt.NDArray[np.float64]]]) -> dict[str, float]:
    known = {name: numbers[numbers > -1] for name, numbers in values}
    return {name: float(numbers.mean()) for name, numbers in known.items() if numbers.size}


def _evaluate(truth: Sequence[Truth], found: Sequence[Detections], classes: int, kind: Kind) -> Any:
    coco = COCO(
        {
            "images": [_image(number, *pair) for number, pair in enumerate(zip(truth, found, strict=True))],
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
            "annotations": list(_annotations(truth, classes)),
        }
    )
    rows = _box_rows(found) if kind == "bbox" else _mask_rows(found)
    results = coco.loadRes(rows) if len(rows) else COCO({**coco.dataset, "annotations": []})
    evaluation = COCOeval_faster(coco, results, kind, print_function=lambda *_: None)
    evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _image(number: int, truth: Truth, found: Detections) -> dict[str, int]:
    # why: COCO asks for the size wherever there is a mask.
    sizes = [{"height": mask.height, "width": mask.width} for mask in [*(truth.masks or ()), *(found.masks or ())][:1]]
    return {"id": number, **(sizes[0] if sizes else {})}


def _box_rows(found: Sequence[Detections]) -> npt.NDArray[np.float64]:
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
    return np.concatenate(rows) if rows else np.zeros((0, 7))


def _mask_rows(found: Sequence[Detections]) -> list[dict[str, Any]]:
    # why no boxes: with them, COCO measures the areas of the boxes.
    return [
        {"image_id": number, "category_id": label, "score": sure, "segmentation": to_coco(mask)}
        for number, one in enumerate(found)
        for label, sure, mask in zip(one.labels.tolist(), one.scores.tolist(), one.masks or (), strict=True)
    ]


def _annotations(truth: Sequence[Truth], classes: int) -> Iterable[dict[str, Any]]:
    number = 0
    for image, one in enumerate(truth):
        sizes = one.boxes[:, 2:] - one.boxes[:, :2]
        masks = [None] * len(one.labels) if one.masks is None else [to_coco(mask) for mask in one.masks]
        facts = one.boxes.tolist(), sizes.tolist(), one.labels.tolist(), one.is_ignored, one.areas, masks
        for (x, y, _, _), (width, height), label, is_ignored, area, mask in zip(*facts, strict=True):
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
                    **({} if mask is None else {"segmentation": mask}),
                }

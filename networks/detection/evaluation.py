"""Evaluate a model on pictures with boxes, and find the objects in others."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torchvision.ops import box_iou

from ...datasets.box_index import BoxIndex, open_box_index
from ...datasets.boxes import Box, BoxClass, BoxSet, Picture
from ...datasets.kitti import write_kitti
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output, by_metric
from ..checkpoints import write_atomically
from ..images import written_names
from ..registry import get_network
from .figures import Sample, draw_all, draw_per_class, draw_samples
from .masks import to_coco
from .metrics import Detections, Truth, score, truths
from .model import Record
from .pictures import require_objects
from .predictions import open_predictor, pictures_of, predict_all
from .selection import Limits

#: Metrics that the message names.
_TOLD = ("mask_mAP", "mask_mAP50", "mAP", "mAP50")

#: Boxes of a score below are not drawn on samples: with those, average precision is measured.
_DRAWN = 0.3


def evaluate(
    *, limits: Limits, batch_size: int, samples: int, model: Path, data: Path, out: Path, reporter: Reporter
) -> Output:
    predictor = open_predictor(model)
    record = predictor.record
    index = open_box_index(data)
    require_objects(index, "evaluation")
    truth = truths(index, record.classes, masks=record.mask_side > 0)
    found = predict_all(predictor, pictures_of(index, record), limits, batch_size, reporter)
    kpi, per_class = _measured(truth, found, record)

    folder = out / "evaluate"
    drawn = [one.of(one.scores >= _DRAWN) for one in found]
    quality = np.array([_quality(*pair) for pair in zip(truth, drawn, strict=True)])
    worst = np.argsort(quality, kind="stable")[:samples].tolist()
    shown = [Sample(index.image(i), drawn[i], truth[i], f"{index.path(i)}, {quality[i]:.0%} right") for i in worst]
    paths = [folder / "samples.png", folder / "ap.png"]
    draw_samples(paths[0], shown, record.classes)
    draw_per_class(paths[1], per_class)
    reporter.saved(paths)
    return Output(
        artifacts=[
            Artifact.at(paths[0], out, ArtifactKind.FIGURE, "Worst predictions"),
            Artifact.at(paths[1], out, ArtifactKind.FIGURE, "AP of each class"),
        ],
        kpi=kpi,
        categorical=by_metric(per_class),
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        key_metric=get_network(record.network).key_metric,
        message=", ".join(f"{name} {kpi[name]:.4f}" for name in _TOLD if name in kpi) + f" on {len(index)} pictures.",
    )


def _measured(
    truth: list[Truth], found: list[Detections], record: Record
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the metrics over all classes, and those of each class."""
    boxes = score(truth, found, record.classes)
    labels = np.concatenate([one.labels[~one.is_ignored] for one in truth])
    per_class = {
        name: {"AP": ap, "AP50": boxes.ap50[name], "objects": float((labels == record.classes.index(name)).sum())}
        for name, ap in boxes.ap.items()
    }
    if not record.mask_side:
        return boxes.kpi, per_class
    masks = score(truth, found, record.classes, "segm")
    for name, ap in masks.ap.items():
        per_class[name] |= {"mask_AP": ap, "mask_AP50": masks.ap50[name]}
    return {**masks.kpi, **boxes.kpi}, per_class


def _quality(truth: Truth, found: Detections) -> float:
    """Return the share of what is there or was told that is both: 1 for a picture in which all is right."""
    is_object = ~truth.is_ignored
    iou = box_iou(torch.from_numpy(truth.boxes), torch.from_numpy(found.boxes)).numpy()
    is_found = ((iou >= 0.5) & (truth.labels[:, None] == found.labels[None])) & is_object[:, None]
    is_wrong = ~is_found.any(axis=0) & ~(iou[~is_object] > 0).any(axis=0)
    total = int(is_object.sum()) + int(is_wrong.sum())
    return float(is_found.any(axis=1).sum() / total) if total else 1.0


def infer(
    *,
    limits: Limits,
    batch_size: int,
    overlays: bool,
    samples: int,
    model: Path,
    data: Path,
    out: Path,
    reporter: Reporter,
) -> Output:
    """Write what is in each picture, as KITTI and as COCO have it, and the pictures with that drawn on them."""
    predictor = open_predictor(model)
    record = predictor.record
    index = open_box_index(data)
    pictures = pictures_of(index, record)
    found = predict_all(predictor, pictures, limits, batch_size, reporter)
    folder = out / "inference"
    folder.mkdir(parents=True, exist_ok=True)
    results, sheet = folder / "results.json", folder / "samples.png"
    write_atomically(results, lambda file: file.write(_coco(index, found, record).encode()))
    labels = _write_labels(index, found, record, folder)
    chosen = np.unique(np.linspace(0, len(index) - 1, min(len(index), samples)).astype(int)).tolist()
    shown = [Sample(index.image(i), found[i], None, index.path(i)) for i in chosen]
    draw_samples(sheet, shown, record.classes)
    drawn = draw_all(index, found, record.classes, folder / "overlays") if overlays else []
    reporter.saved([results, *labels, sheet, *drawn])
    kind = ArtifactKind.PREDICTIONS
    boxes = sum(len(one.scores) for one in found)
    return Output(
        artifacts=[
            Artifact.at(results, out, kind, f"{_what(record).capitalize()} in the form of COCO results"),
            Artifact.at(sheet, out, ArtifactKind.FIGURE, "Sample predictions"),
            *(Artifact.at(path, out, kind, path.stem) for path in [*labels, *drawn]),
        ],
        kpi={"boxes": float(boxes)},
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        message=f"Found {boxes} objects in {len(index)} pictures.",
    )


def _coco(index: BoxIndex, found: list[Detections], record: Record) -> str:
    """Return COCO results; pictures and categories are numbered from 1, and have their names besides."""
    rows = [
        {
            "image_id": i + 1,
            "file_name": index.path(i),
            "category_id": label + 1,
            "category_name": record.classes[label],
            "bbox": [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": round(sure, 5),
            **({} if mask is None else {"segmentation": to_coco(mask)}),
        }
        for i, one in enumerate(found)
        for (x1, y1, x2, y2), label, sure, mask in zip(
            one.boxes.tolist(),
            one.labels.tolist(),
            one.scores.tolist(),
            [None] * len(one.labels) if one.masks is None else one.masks,
            strict=True,
        )
    ]
    return json.dumps(rows)


def _what(record: Record) -> str:
    return "boxes and masks" if record.mask_side else "boxes"


def _write_labels(index: BoxIndex, found: list[Detections], record: Record, folder: Path) -> list[Path]:
    """Write a KITTI file per picture below `labels`, with the score in the last column."""
    names = written_names(index, ".txt")
    boxes = BoxSet(
        root=folder,
        pictures=tuple(
            Picture(
                path=PurePosixPath(name),
                name=PurePosixPath(name),
                width=int(index.widths[i]),
                height=int(index.heights[i]),
                boxes=_boxes(found[i]),
            )
            for i, name in enumerate(names)
        ),
        # why: KITTI divides its columns by blanks.
        classes=tuple(BoxClass(name="_".join(name.split())) for name in record.classes),
    )
    write_kitti(boxes, folder)
    return sorted(path for path in folder.rglob("*.txt") if path.is_file())


def _boxes(found: Detections) -> tuple[Box, ...]:
    rows = zip(found.boxes.round(2).tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    return tuple(
        Box(x1=round(x1, 2), y1=round(y1, 2), x2=round(x2, 2), y2=round(y2, 2), label=label, score=round(sure, 5))
        for (x1, y1, x2, y2), label, sure in rows
    )

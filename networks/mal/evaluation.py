"""Make the masks of boxes: to compare them with the true ones, or as labels for others to learn from."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from ...datasets.box_index import BoxIndex, open_box_index
from ...datasets.boxes import Box, BoxClass, BoxSet, Picture
from ...datasets.coco import ANNOTATIONS_FILE, write_coco
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output, by_metric
from ..detection.figures import Sample, draw_all, draw_per_class, draw_samples
from ..detection.masks import unpack
from ..detection.metrics import Detections, score, truths
from .crops import Crops, require_boxes
from .losses import mil_loss
from .masks import Made, make, overlap, true_masks
from .model import Labeller
from .plans import maker_of
from .spec import Inference, Look

KEY_METRIC = "mIoU"

#: Of the metrics of masks, those that say something when boxes and classes are given.
_MEASURED = ("mask_mAP", "mask_mAP50", "mask_mAP75")


def evaluate(look: Look, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    labeller = Labeller(model, maker_of(look))
    index = open_box_index(data)
    require_boxes(index, "evaluation")
    true = true_masks(index, "Use a set of the type instance_segmentation.")
    crops = Crops(index, np.flatnonzero(~index.is_ignored), labeller.record.width)
    made, loss = _make_all(labeller, crops, look.batch_size, reporter)
    ious = np.array([overlap(one.mask, true[row]) for one, row in zip(made, crops.rows, strict=True)])
    found = _by_picture(crops, made)
    truth = truths(index, index.classes, masks=True)
    scores = score(truth, found, index.classes, "segm")
    labels = index.box_labels[crops.rows]
    per_class = {
        name: {
            "IoU": float(ious[labels == label].mean()),
            "mask_AP": scores.ap[name],
            "AP50": scores.ap50[name],
            "objects": float((labels == label).sum()),
        }
        for label, name in enumerate(index.classes)
        if name in scores.ap
    }
    kpi = {
        KEY_METRIC: float(ious.mean()),
        **{name: scores.kpi[name] for name in _MEASURED if name in scores.kpi},
        "loss": loss,
    }

    folder = out / "evaluate"
    pictures = index.images[crops.rows]
    quality = {i: float(ious[pictures == i].mean()) for i in np.unique(pictures).tolist()}
    worst = sorted(quality, key=lambda i: quality[i])[: look.samples]
    shown = [Sample(index.image(i), found[i], truth[i], f"{index.path(i)}, mean IoU {quality[i]:.3f}") for i in worst]
    paths = [folder / "samples.png", folder / "ap.png"]
    draw_samples(paths[0], shown, index.classes)
    draw_per_class(paths[1], per_class)
    reporter.saved(paths)
    return Output(
        artifacts=[
            Artifact.at(paths[0], out, ArtifactKind.FIGURE, "Worst masks"),
            Artifact.at(paths[1], out, ArtifactKind.FIGURE, "Masks of each class"),
        ],
        kpi=kpi,
        categorical=by_metric(per_class),
        classes=index.classes,
        parameter_count=labeller.parameter_count,
        key_metric=KEY_METRIC,
        message=", ".join(f"{name} {value:.4f}" for name, value in kpi.items() if name != "loss")
        + f" of {len(crops)} objects in {len(index)} pictures.",
    )


def infer(look: Inference, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    """Write the annotations of a data set with a mask for each box, and the pictures with that painted on them."""
    labeller = Labeller(model, maker_of(look))
    index = open_box_index(data)
    require_boxes(index, "inference")
    crops = Crops(index, np.flatnonzero(~index.is_ignored), labeller.record.width)
    made, _ = _make_all(labeller, crops, look.batch_size, reporter)
    found = _by_picture(crops, made)
    folder = out / "inference"
    write_coco(_labelled(crops, made, folder), folder)
    sheet = folder / "samples.png"
    with_objects = np.unique(index.images[crops.rows])
    chosen = with_objects[np.unique(np.linspace(0, len(with_objects) - 1, look.samples).astype(int))].tolist()
    draw_samples(sheet, [Sample(index.image(i), found[i], None, index.path(i)) for i in chosen], index.classes)
    drawn = draw_all(index, found, index.classes, folder / "overlays") if look.overlays else []
    reporter.saved([folder / ANNOTATIONS_FILE, sheet, *drawn])
    empty = sum(one.score == 0 for one in made)
    if empty:
        reporter.log(f"{empty} objects have no mask: no pixel in their boxes was sure enough.")
    kind = ArtifactKind.PREDICTIONS
    return Output(
        artifacts=[
            Artifact.at(folder / ANNOTATIONS_FILE, out, kind, "Boxes with their masks, in COCO"),
            Artifact.at(sheet, out, ArtifactKind.FIGURE, "Sample masks"),
            *(Artifact.at(path, out, kind, path.stem) for path in drawn),
        ],
        kpi={"masks": float(len(made) - empty), "objects": float(len(made))},
        classes=index.classes,
        parameter_count=labeller.parameter_count,
        message=f"Made masks of {len(made) - empty} of {len(made)} objects in {len(index)} pictures.",
    )


def _make_all(labeller: Labeller, crops: Crops, batch_size: int, reporter: Reporter) -> tuple[list[Made], float]:
    """Return the mask of each box, and the mean loss of rows and columns."""
    record = labeller.record
    made: list[Made] = []
    loss = 0.0
    crops.load()
    for start in range(0, len(crops), batch_size):
        numbers = list(range(start, min(len(crops), start + batch_size)))
        windows = [crops.window(number, (record.margin,) * 4) for number in numbers]
        pixels, boxes = crops.cut(numbers, windows)
        probabilities = labeller.probabilities(pixels, boxes)
        loss += float(mil_loss(probabilities, boxes.to(probabilities.device).float()).sum())
        made += make(probabilities, windows, crops, numbers, record.threshold)
        reporter.progress(0.95 * len(made) / len(crops), f"{len(made)} of {len(crops)} masks")
    return made, loss / len(crops)


def _by_picture(crops: Crops, made: list[Made]) -> list[Detections]:
    index = crops.index
    starts = np.searchsorted(index.images[crops.rows], np.arange(len(index) + 1)).tolist()
    found = []
    for start, end in pairwise(starts):
        rows, here = crops.rows[start:end], made[start:end]
        scores = np.array([one.score for one in here], np.float32)
        found.append(Detections(index.edges[rows], scores, index.box_labels[rows], tuple(one.mask for one in here)))
    return found


def _labelled(crops: Crops, made: list[Made], root: Path) -> BoxSet:
    """Return the data set with the new masks; crowds and regions to ignore stay as they are."""
    index = crops.index
    new = dict(zip(crops.rows.tolist(), made, strict=True))
    pictures = []
    for image in range(len(index)):
        rows = index.of(image)
        name = PurePosixPath(index.path(image).removeprefix("images/"))
        boxes = tuple(_box(index, row, new.get(row)) for row in range(rows.start, rows.stop))
        width, height = int(index.widths[image]), int(index.heights[image])
        pictures.append(Picture(path=name, name=name, width=width, height=height, boxes=boxes))
    return BoxSet(root=root, pictures=tuple(pictures), classes=tuple(BoxClass(name=name) for name in index.classes))


def _box(index: BoxIndex, row: int, made: Made | None) -> Box:
    x1, y1, x2, y2 = (round(float(edge), 3) for edge in index.edges[row])
    plain = Box(x1=x1, y1=y1, x2=x2, y2=y2, label=int(index.box_labels[row]))
    if made is None:
        return replace(plain, crowd=bool(index.is_crowd[row]), area=float(index.areas[row]), mask=index.mask(row))
    if made.score == 0:
        return plain
    return replace(plain, area=float(unpack(made.mask).sum()), mask=made.mask, score=round(made.score, 5))

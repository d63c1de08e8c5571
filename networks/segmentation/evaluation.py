"""Evaluate a model on images with masks, and predict the masks of others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ...datasets.index import ImageIndex, open_index
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output, by_metric
from ..checkpoints import write_atomically
from ..images import Images, written_names
from ..predictors import Predictor, open_model
from .data import LabelMaps, masks_of
from .figures import Labels, Sample, draw_per_class, draw_samples, mask_image, paint
from .metrics import Scores, confusion_of, loss_of, score
from .model import Record, load_model, parse_record

#: Memory in MiB for label maps: a set that fits is decoded by several threads.
_CACHE_MB = 1024

#: What `evaluate` ranks by.
KEY_METRIC = "mIoU"


def open_predictor(path: Path) -> Predictor[Record]:
    """Return the model in a .safetensors, .onnx or .engine file; JobFailed when it is none of this family."""
    return open_model(path, load_model, parse_record)


class Predicted(NamedTuple):
    """A batch: the numbers of its images, its logits BCHW and its labels BHW."""

    numbers: list[int]
    logits: torch.Tensor
    labels: torch.Tensor


def predictions(
    predictor: Predictor[Record], index: ImageIndex, batch_size: int, reporter: Reporter
) -> Iterator[Predicted]:
    images = Images(index, predictor.record.shape)
    for numbers, pixels in images.batches(batch_size):
        logits = torch.from_numpy(predictor.logits(pixels))
        yield Predicted(numbers, logits, logits.argmax(1).to(torch.uint8))
        reporter.progress(0.95 * (numbers[-1] + 1) / len(images), f"{numbers[-1] + 1} of {len(images)} images")


def evaluate(*, batch_size: int, samples: int, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    predictor = open_predictor(model)
    record = predictor.record
    index = open_index(data)
    label_maps = LabelMaps(masks_of(index, "evaluation"), record, _CACHE_MB)
    label_maps.load()
    count = len(record.classes)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    loss = 0.0
    ious: list[float] = []
    for batch in predictions(predictor, index, batch_size, reporter):
        truth = label_maps.labels(batch.numbers)
        loss += float(loss_of(batch.logits, truth, "cross_entropy")) * len(batch.numbers)
        for predicted, wanted in zip(batch.labels, truth, strict=True):
            table = confusion_of(predicted, wanted, count)
            confusion += table
            ious.append(score(table.numpy(), 0.0, record.classes).kpi[KEY_METRIC])
    scores = score(confusion.numpy(), loss / len(index), record.classes)

    folder = out / "evaluate"
    worst = np.argsort(ious, kind="stable")[:samples].tolist()
    shown = _samples(predictor, index, worst, label_maps, [f"{index.path(i)}, mIoU {ious[i]:.3f}" for i in worst])
    draw_samples(folder / "samples.png", shown, record.classes)
    draw_per_class(folder / "iou.png", scores.per_class)
    paths = [folder / "samples.png", folder / "iou.png"]
    reporter.saved(paths)
    return Output(
        artifacts=[
            Artifact.at(paths[0], out, ArtifactKind.FIGURE, "Worst predictions"),
            Artifact.at(paths[1], out, ArtifactKind.FIGURE, "IoU of each class"),
        ],
        kpi=scores.kpi,
        categorical=by_metric(scores.per_class),
        confusion=confusion.tolist(),
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        key_metric=KEY_METRIC,
        message=_message(scores, len(index)),
    )


def infer(
    *, batch_size: int, overlays: bool, samples: int, model: Path, data: Path, out: Path, reporter: Reporter
) -> Output:
    """Write a mask of the original size for each image, and the image with the mask over it."""
    predictor = open_predictor(model)
    record = predictor.record
    index = open_index(data)
    folder = out / "inference"
    names = written_names(index, ".png")
    shares = np.zeros((len(index), len(record.classes)))
    written: list[Path] = []
    for batch in predictions(predictor, index, batch_size, reporter):
        for i, labels in zip(batch.numbers, batch.labels.numpy(), strict=True):
            full = _to_size(labels, int(index.widths[i]), int(index.heights[i]))
            shares[i] = np.bincount(full.ravel(), minlength=len(record.classes)) / full.size
            written.append(_write_image(folder / "masks" / names[i], mask_image(full, len(record.classes))))
            if overlays:
                picture = paint(index.image(i), full, len(record.classes))
                written.append(_write_image(folder / "overlays" / names[i], picture))
    table, legend, sheet = folder / "predictions.csv", folder / "classes.json", folder / "samples.png"
    _write(table, _csv(index, names, shares, record.classes))
    _write(legend, json.dumps(dict(enumerate(record.classes)), indent=1).encode())
    chosen = np.unique(np.linspace(0, len(index) - 1, min(len(index), samples)).astype(int)).tolist()
    draw_samples(sheet, _samples(predictor, index, chosen, None, [index.path(i) for i in chosen]), record.classes)
    reporter.saved([*written, table, legend, sheet])
    kind = ArtifactKind.PREDICTIONS
    return Output(
        artifacts=[
            Artifact.at(table, out, kind, "Share of each class in each image"),
            Artifact.at(legend, out, kind, "Values of the masks"),
            Artifact.at(sheet, out, ArtifactKind.FIGURE, "Sample predictions"),
            *(Artifact.at(path, out, kind, path.stem) for path in written),
        ],
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        message=f"Wrote the masks of {len(index)} images" + (" and the images with them." if overlays else "."),
    )


def _samples(
    predictor: Predictor[Record], index: ImageIndex, numbers: list[int], truth: LabelMaps | None, titles: list[str]
) -> list[Sample]:
    images = Images(index, predictor.record.shape, cache_mb=0)
    found = []
    for i, title in zip(numbers, titles, strict=True):
        labels = predictor.logits(images.pixels([i])).argmax(1)[0].astype(np.uint8)
        size = predictor.record.width, predictor.record.height
        wanted = None if truth is None else truth.labels([i])[0].numpy()
        found.append(Sample(index.image(i).resize(size, Image.Resampling.BILINEAR), labels, wanted, title))
    return found


def _to_size(labels_HW: Labels, width: int, height: int) -> Labels:
    if labels_HW.shape == (height, width):
        return labels_HW
    return np.asarray(Image.fromarray(labels_HW).resize((width, height), Image.Resampling.NEAREST))


def _csv(index: ImageIndex, names: list[str], shares: npt.NDArray[np.float64], classes: list[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "mask", *classes])
    for i, row in enumerate(shares):
        writer.writerow([index.path(i), f"masks/{names[i]}", *(f"{share:.6f}" for share in row)])
    return text.getvalue().encode()


def _write_image(path: Path, image: Image.Image) -> Path:
    content = io.BytesIO()
    image.save(content, "PNG")
    _write(path, content.getvalue())
    return path


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def _message(scores: Scores, count: int) -> str:
    return f"mIoU {scores.kpi['mIoU']:.4f}, pixel accuracy {scores.kpi['pixel_accuracy']:.4f} on {count} images."

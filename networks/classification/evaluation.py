"""Evaluate a model on labelled images, and predict the labels of others."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...datasets.index import ImageIndex, open_index
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output, by_metric
from ..checkpoints import write_atomically
from ..images import Images
from .figures import Sample, draw_confusion, draw_samples
from .heads import UNKNOWN, Head, heads_of, labels_for
from .metrics import Scores, score, softmax
from .model import Record
from .predictors import open_predictor, predict_all
from .spec import EvaluateSpec, InferenceSpec

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]


def evaluate(spec: EvaluateSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    predictor = open_predictor(model)
    record = predictor.record
    index = open_index(data)
    labels = labels_for(index, record, "evaluation")
    logits = predict_all(predictor, Images(index, record.shape), spec.dataset.batch_size, reporter)
    scores = score(logits, labels, record)

    labels_BH = labels if record.tasks else labels[:, None]
    artifacts = _draw_confusions(scores, record, out)
    chosen = _mistakes_first(logits, labels_BH, record, spec.evaluate.samples)
    picture = out / "evaluate" / "samples.png"
    draw_samples(picture, _samples(index, chosen, logits, record, labels_BH), "Predictions")
    artifacts.append(Artifact.at(picture, out, ArtifactKind.FIGURE, "Sample predictions, mistakes first"))
    reporter.saved([out / artifact.path for artifact in artifacts])
    return Output(
        artifacts=artifacts,
        kpi=scores.kpi,
        categorical=by_metric(scores.per_class),
        confusion=None if record.tasks else scores.confusions[""].tolist(),
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        key_metric="accuracy_top-1",
        message=_message(scores, record, len(index)),
    )


def infer(spec: InferenceSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    predictor = open_predictor(model)
    record = predictor.record
    index = open_index(data)
    logits = predict_all(predictor, Images(index, record.shape), spec.dataset.batch_size, reporter)

    folder = out / "inference"
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "predictions.csv"
    write_atomically(table, lambda file: file.write(_csv(index, logits, heads_of(record), spec.inference.top_k)))
    picture = folder / "samples.png"
    chosen = _spread(len(index), spec.inference.samples)
    draw_samples(picture, _samples(index, chosen, logits, record, None), "Predictions")
    reporter.saved([table, picture])
    return Output(
        artifacts=[
            Artifact.at(table, out, ArtifactKind.PREDICTIONS, "Predictions"),
            Artifact.at(picture, out, ArtifactKind.FIGURE, "Sample predictions"),
        ],
        classes=record.classes,
        parameter_count=predictor.parameter_count,
        message=f"Predicted the labels of {len(index)} images.",
    )


def _message(scores: Scores, record: Record, count: int) -> str:
    if record.tasks:
        told = ", ".join(f"{task} {scores.kpi[f'accuracy.{task}']:.4f}" for task in record.tasks)
        right = round(scores.kpi["accuracy_all"] * count)
        return f"{right} of {count} images are right in all tasks; accuracy {told}."
    right = int(scores.confusions[""].diagonal().sum())
    return f"{right} of {count} images are right: accuracy {scores.kpi['accuracy_top-1']:.4f}."


def _draw_confusions(scores: Scores, record: Record, out: Path) -> list[Artifact]:
    """Draw a matrix for each head; those of tasks are tables too, for there is no other place for their numbers."""
    artifacts = []
    folder = out / "evaluate"
    for head in heads_of(record):
        ending, title = (f"_{head.task}", f" of {head.task}") if head.task else ("", "")
        confusion = scores.confusions[head.task]
        picture = folder / f"confusion{ending}.png"
        draw_confusion(picture, confusion, head.classes)
        artifacts.append(Artifact.at(picture, out, ArtifactKind.FIGURE, f"Confusion matrix{title}"))
        if head.task:
            table = folder / f"confusion{ending}.csv"
            rows = [
                ["true", *head.classes],
                *([name, *row] for name, row in zip(head.classes, confusion.tolist(), strict=True)),
            ]
            _write_csv(table, rows)
            artifacts.append(Artifact.at(table, out, ArtifactKind.REPORT, f"Confusion matrix{title}, numbers"))
    return artifacts


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    content = _csv_bytes(rows)
    write_atomically(path, lambda file: file.write(content))


def _csv_bytes(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _csv(index: ImageIndex, logits: Floats, heads: list[Head], top_k: int) -> bytes:
    """Return path, label, confidence and, for more labels, label_2, confidence_2, ...

    Of tasks the columns are called after them: colour, colour_confidence, colour_2, colour_confidence_2, ...
    """
    names, columns = ["path"], []
    for head in heads:
        shares = softmax(logits[:, head.start : head.stop])
        ranked = np.argsort(-shares, axis=1, kind="stable")
        label, confidence = (head.task, f"{head.task}_confidence") if head.task else ("label", "confidence")
        for rank in range(min(top_k, len(head.classes))):
            ending = f"_{rank + 1}" if rank else ""
            names += [f"{label}{ending}", f"{confidence}{ending}"]
            best = ranked[:, rank]
            columns.append([head.classes[i] for i in best])
            columns.append([f"{share:.6f}" for share in shares[np.arange(len(best)), best]])
    paths = [index.path(i) for i in range(len(index))]
    return _csv_bytes([names, *zip(paths, *columns, strict=True)])


def _mistakes_first(logits: Floats, labels_BH: Labels, record: Record, count: int) -> list[int]:
    """Return numbers of images to show: the most confident mistakes, then some that are right."""
    is_wrong = ((record.labels(logits) != labels_BH) & (labels_BH != UNKNOWN)).any(axis=1)
    wrong, right = np.flatnonzero(is_wrong), np.flatnonzero(~is_wrong)
    wrong = wrong[np.argsort(-_confidence(logits[wrong], record), kind="stable")][:count]
    rest = right[_spread(len(right), count - len(wrong))]
    return [int(i) for i in (*wrong, *rest)]


def _confidence(logits: Floats, record: Record) -> npt.NDArray[np.float64]:
    """Return the confidence in the labels of each image, of several tasks in the least certain one."""
    if not len(logits):
        return np.empty(0)
    heads = heads_of(record)
    return np.min([softmax(logits[:, head.start : head.stop]).max(axis=1) for head in heads], axis=0)


def _spread(total: int, count: int) -> list[int]:
    """Return up to `count` numbers below `total`, evenly spread: classes lie side by side in an index."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(int)).tolist() if total and count else []


def _samples(
    index: ImageIndex, numbers: list[int], logits: Floats, record: Record, truths_BH: Labels | None
) -> list[Sample]:
    heads, labels = heads_of(record), record.labels(logits[numbers])

    def words(row: Labels) -> str:
        return ", ".join(head.classes[label] for head, label in zip(heads, row, strict=True))

    samples = []
    for row, (i, confidence) in enumerate(zip(numbers, _confidence(logits[numbers], record), strict=True)):
        truth = None
        if truths_BH is not None:
            # why: what nobody knows cannot be wrong.
            truth = words(np.where(truths_BH[i] == UNKNOWN, labels[row], truths_BH[i]))
        samples.append(
            Sample(image=index.image(i), label=words(labels[row]), confidence=float(confidence), truth=truth)
        )
    return samples

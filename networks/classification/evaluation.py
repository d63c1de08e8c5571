"""Evaluate a model on labelled images, and predict the labels of others."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...datasets.index import ImageIndex, open_index
from ...schemas.reporting import Reporter
from ...schemas.results import Artifact, ArtifactKind, Output
from ..checkpoints import write_atomically
from ..images import Images
from .data import labels_for
from .figures import Sample, draw_confusion, draw_samples
from .metrics import score, softmax
from .predictors import open_predictor, predict_all
from .spec import EvaluateSpec, InferenceSpec

Floats = npt.NDArray[np.floating]


def evaluate(spec: EvaluateSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    predictor = open_predictor(model)
    classes = predictor.record.classes
    index = open_index(data)
    labels = labels_for(index, classes, "evaluation")
    logits = predict_all(predictor, Images(index, predictor.record.shape), spec.dataset.batch_size, reporter)
    scores = score(logits, labels, classes)

    folder = out / "evaluate"
    draw_confusion(folder / "confusion.png", scores.confusion, classes)
    chosen = _mistakes_first(logits, labels, spec.evaluate.samples)
    truths = [classes[labels[i]] for i in chosen]
    draw_samples(folder / "samples.png", _samples(index, chosen, logits, classes, truths), "Predictions")
    paths = [folder / "confusion.png", folder / "samples.png"]
    reporter.saved(paths)
    right = int(scores.confusion.diagonal().sum())
    accuracy = scores.kpi["accuracy_top-1"]
    return Output(
        artifacts=[
            _figure(paths[0], out, "Confusion matrix"),
            _figure(paths[1], out, "Sample predictions, mistakes first"),
        ],
        kpi=scores.kpi,
        categorical=scores.per_class,
        confusion=scores.confusion.tolist(),
        classes=classes,
        parameter_count=predictor.parameter_count,
        key_metric="accuracy_top-1",
        message=f"{right} of {len(labels)} images are right: accuracy {accuracy:.4f}.",
    )


def infer(spec: InferenceSpec, *, model: Path, data: Path, out: Path, reporter: Reporter) -> Output:
    predictor = open_predictor(model)
    classes = predictor.record.classes
    index = open_index(data)
    logits = predict_all(predictor, Images(index, predictor.record.shape), spec.dataset.batch_size, reporter)

    folder = out / "inference"
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "predictions.csv"
    content = _csv(index, softmax(logits), classes, min(spec.inference.top_k, len(classes)))
    write_atomically(table, lambda file: file.write(content))
    picture = folder / "samples.png"
    chosen = _spread(len(index), spec.inference.samples)
    draw_samples(picture, _samples(index, chosen, logits, classes, None), "Predictions")
    reporter.saved([table, picture])
    return Output(
        artifacts=[
            Artifact(path=table.relative_to(out).as_posix(), kind=ArtifactKind.PREDICTIONS, title="Predictions"),
            _figure(picture, out, "Sample predictions"),
        ],
        classes=classes,
        parameter_count=predictor.parameter_count,
        message=f"Predicted the labels of {len(index)} images.",
    )


def _csv(index: ImageIndex, shares: npt.NDArray[np.float64], classes: list[str], top_k: int) -> bytes:
    """Return path, label, confidence and, for more labels, label_2, confidence_2, ..."""
    names = [f"{word}{'' if rank == 1 else f'_{rank}'}" for rank in range(1, top_k + 1) for word in _CSV_WORDS]
    ranked = np.argsort(-shares, axis=1, kind="stable")[:, :top_k]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", *names])
    for i, best in enumerate(ranked):
        cells = [cell for label in best for cell in (classes[label], f"{shares[i, label]:.6f}")]
        writer.writerow([index.path(i), *cells])
    return text.getvalue().encode()


_CSV_WORDS = ("label", "confidence")


def _mistakes_first(logits: Floats, labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Return numbers of images to show: the most confident mistakes, then some that are right."""
    shares = softmax(logits)
    wrong = np.flatnonzero(shares.argmax(axis=1) != labels)
    wrong = wrong[np.argsort(-shares[wrong].max(axis=1), kind="stable")][:count]
    right = np.flatnonzero(shares.argmax(axis=1) == labels)
    rest = right[_spread(len(right), count - len(wrong))]
    return [int(i) for i in (*wrong, *rest)]


def _spread(total: int, count: int) -> list[int]:
    """Return up to `count` numbers below `total`, evenly spread: classes lie side by side in an index."""
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(int)).tolist() if total and count else []


def _samples(
    index: ImageIndex, numbers: list[int], logits: Floats, classes: list[str], truths: list[str] | None
) -> list[Sample]:
    shares = softmax(logits[numbers])
    return [
        Sample(
            image=index.image(i),
            label=classes[int(shares[row].argmax())],
            confidence=float(shares[row].max()),
            truth=None if truths is None else truths[row],
        )
        for row, i in enumerate(numbers)
    ]


def _figure(path: Path, out: Path, title: str) -> Artifact:
    return Artifact(path=path.relative_to(out).as_posix(), kind=ArtifactKind.FIGURE, title=title)

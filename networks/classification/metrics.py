"""Numbers that say how good a classifier is, from its logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .heads import UNKNOWN, Head, heads_of
from .model import Record

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    kpi: dict[str, float]
    per_class: dict[str, dict[str, float]]
    """Class name to precision, recall, f1 and support; of tasks `task=class`, and the task to its accuracy and f1."""
    confusions: dict[str, Ints]
    """By task, "" for a classifier without tasks. Rows: true class; columns: predicted."""


def softmax(logits_BC: Floats) -> npt.NDArray[np.float64]:
    shifted = np.exp(logits_BC.astype(np.float64) - logits_BC.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def score(logits_BC: Floats, labels: Ints, record: Record) -> Scores:
    """Return all metrics of a model; `labels` are as `heads.labels_for` gives them."""
    if record.tasks:
        return _score_tasks(logits_BC, labels, heads_of(record))
    return _score_classes(logits_BC, labels, record.classes)


def _score_classes(logits_BC: Floats, labels_B: Ints, classes: list[str]) -> Scores:
    """Return all metrics; precision, recall and f1 are means over the classes that occur in `labels_B`."""
    count = len(classes)
    predicted_B = logits_BC.argmax(axis=1)
    confusion = np.zeros((count, count), dtype=np.int64)
    np.add.at(confusion, (labels_B, predicted_B), 1)

    hits = confusion.diagonal().astype(np.float64)
    support, guesses = confusion.sum(axis=1), confusion.sum(axis=0)
    recall = np.divide(hits, support, out=np.zeros(count), where=support > 0)
    precision = np.divide(hits, guesses, out=np.zeros(count), where=guesses > 0)
    f1 = np.divide(2 * hits, support + guesses, out=np.zeros(count), where=support + guesses > 0)

    seen = support > 0
    picked = softmax(logits_BC)[np.arange(len(labels_B)), labels_B]
    kpi = {
        "accuracy_top-1": float(hits.sum() / len(labels_B)),
        "loss": float(-np.log(np.maximum(picked, np.finfo(np.float64).tiny)).mean()),
        "precision": float(precision[seen].mean()),
        "recall": float(recall[seen].mean()),
        "f1": float(f1[seen].mean()),
    }
    if count > 5:
        best_five = np.argpartition(logits_BC, -5, axis=1)[:, -5:]
        kpi["accuracy_top-5"] = float((best_five == labels_B[:, None]).any(axis=1).mean())
    per_class = {
        name: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": float(support[i]),
        }
        for i, name in enumerate(classes)
    }
    return Scores(kpi, per_class, {"": confusion})


def _score_tasks(logits_BC: Floats, labels_BT: Ints, heads: list[Head]) -> Scores:
    """Return means over the tasks, in each of which only the images count whose class is known."""
    kpi: dict[str, list[float]] = {"accuracy_top-1": [], "loss": [], "f1": []}
    per_class: dict[str, dict[str, float]] = {}
    confusions: dict[str, Ints] = {}
    all_right = np.ones(len(labels_BT), dtype=bool)
    per_task: dict[str, float] = {}
    for column, head in enumerate(heads):
        labels, logits = labels_BT[:, column], logits_BC[:, head.start : head.stop]
        known = labels != UNKNOWN
        all_right &= ~known | (logits.argmax(axis=1) == labels)
        scores = _score_classes(logits[known], labels[known], head.classes)
        for name, values in kpi.items():
            values.append(scores.kpi[name])
        confusions[head.task] = scores.confusions[""]
        per_task[f"accuracy.{head.task}"] = scores.kpi["accuracy_top-1"]
        per_class[head.task] = {
            "accuracy": scores.kpi["accuracy_top-1"],
            "f1": scores.kpi["f1"],
            "support": float(known.sum()),
        }
        per_class |= {f"{head.task}={name}": values for name, values in scores.per_class.items()}
    means = {name: float(np.mean(values)) for name, values in kpi.items()}
    return Scores(means | {"accuracy_all": float(all_right.mean())} | per_task, per_class, confusions)

"""What the logits of a classifier mean: one head, or one for each task, side by side.

All heads are one layer over the same features: its outputs are the classes of the first task, then those of the
second, and so on. So no module bears the name of a task, and pruning, loading and transfer need to know nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ...datasets.index import ImageIndex
from ...schemas.errors import DatasetError
from .model import Record

Labels = npt.NDArray[np.int64]

#: Label of an image in a task that nobody knows.
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Head:
    """A range of logits. `task` is empty for the only head of a classifier without tasks."""

    task: str
    classes: list[str]
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.classes)


def heads_of(record: Record) -> list[Head]:
    """Return the heads in the order of their logits."""
    if not record.tasks:
        return [Head("", record.classes, 0)]
    heads: list[Head] = []
    for task, classes in record.tasks.items():
        heads.append(Head(task, classes, heads[-1].stop if heads else 0))
    return heads


def flat_classes(tasks: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a name for every logit, `task=class`."""
    return [f"{task}={name}" for task, classes in tasks.items() for name in classes]


class OnePerTask(nn.Module):
    """A classifier whose outputs are the logits of each head by themselves, as its graph has them."""

    def __init__(self, network: nn.Module, record: Record) -> None:
        super().__init__()
        self.network = network
        self.sizes = [len(head.classes) for head in heads_of(record)]

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.network(images_BCHW).split(self.sizes, dim=1)


def output_names(record: Record) -> list[str]:
    """Return the names of the outputs of a graph."""
    return [f"logits_{task}" for task in record.tasks] or ["logits"]


def labels_for(index: ImageIndex, record: Record, role: str) -> Labels:
    """Return the labels of `index` as positions in the classes of a model, matched by name.

    Of a model with tasks they are of shape (N, tasks), with `UNKNOWN` where the table says nothing; else (N,).

    Raises:
        DatasetError: the set has no labels of this kind, or a class or task that the model does not know.
    """
    return _task_labels(index, record, role) if record.tasks else _class_labels(index, record.classes, role)


def _class_labels(index: ImageIndex, classes: list[str], role: str) -> Labels:
    if not index.classes or index.info.masks is not None:
        found = f" It has labels of tasks ({', '.join(index.tasks)})." if index.tasks else ""
        raise DatasetError(
            f"The {role} data set has no labels that are classes of its images.{found}",
            hint="Use multitask_classification." if index.tasks else "Use a set of folders, one per class.",
        )
    _refuse_unknown(index.classes, classes, f"The {role} data set has classes")
    positions = np.array([classes.index(name) for name in index.classes], dtype=np.int64)
    return positions[index.labels]


def _task_labels(index: ImageIndex, record: Record, role: str) -> Labels:
    require_tasks(index, role)
    if set(index.tasks) != set(record.tasks):
        raise DatasetError(
            f"The {role} data set has the tasks {', '.join(index.tasks)}, and the model has {', '.join(record.tasks)}.",
            hint="Give the table of the data set one column for each task of the model, empty where nothing is known.",
        )
    columns = []
    names = list(index.tasks)
    for task, classes in record.tasks.items():
        _refuse_unknown(index.tasks[task], classes, f"In {task} the {role} data set has classes")
        positions = np.array([*(classes.index(name) for name in index.tasks[task]), UNKNOWN], dtype=np.int64)
        # why: the label of an unknown class is -1, which is the place of UNKNOWN.
        columns.append(positions[index.task_labels[:, names.index(task)]])
    return np.stack(columns, axis=1)


def require_tasks(index: ImageIndex, role: str) -> None:
    """Raise `DatasetError` unless the images of the set have labels of tasks."""
    if not index.tasks:
        found = "one class per image, by folders" if index.classes else "none"
        raise DatasetError(
            f"multitask_classification needs images with labels of several tasks, and the {role} data set has {found}.",
            hint="Use a data set of format custom: a folder `images` and beside it a table such as train.csv, whose "
            "first column has file names and whose other columns have the classes of a task.",
        )


def _refuse_unknown(found: Sequence[str], classes: Sequence[str], what: str) -> None:
    unknown = sorted(set(found) - set(classes))
    if unknown:
        raise DatasetError(
            f"{what} that the model does not know: {', '.join(unknown[:10])}.",
            hint=f"The model's classes are {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}.",
        )

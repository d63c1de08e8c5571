"""Pictures for people: a confusion matrix and a sheet of sample predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from ..figures import save_figure, shorten

#: Larger matrices are drawn without the numbers in their cells.
_READABLE_CLASSES = 25

_RIGHT, _WRONG = "#1a7f37", "#cf222e"


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    label: str
    confidence: float
    truth: str | None = None
    """None where nobody knows it."""


def draw_confusion(path: Path, confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> None:
    count = len(classes)
    side = float(np.clip(0.45 * count + 2.5, 5, 16))
    figure = Figure(figsize=(side + 0.8, side), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, label="share of the true class", shrink=0.8)
    ticks = range(0, count, max(1, -(-count // 50)))
    names = [shorten(classes[i], 18) for i in ticks]
    crowded = max(map(len, names)) > 3
    axes.set_xticks(ticks, names, rotation=60 if crowded else 0, ha="right" if crowded else "center")
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    right = int(confusion.diagonal().sum())
    axes.set_title(f"{right} of {int(confusion.sum())} right")
    if count <= _READABLE_CLASSES:
        for (row, column), number in np.ndenumerate(confusion):
            if number:
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(number), ha="center", va="center", color=color, fontsize=9)
    save_figure(figure, path)


def draw_samples(path: Path, samples: Sequence[Sample], title: str) -> None:
    columns = min(5, len(samples))
    rows = -(-len(samples) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.2 * rows + 0.5), dpi=110, layout="constrained")
    figure.suptitle(title)
    for number, sample in enumerate(samples):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(sample.image, interpolation="nearest" if max(sample.image.size) < 64 else None)
        axes.set_axis_off()
        text = f"{shorten(sample.label, 16)}  {sample.confidence:.0%}"
        color = "black"
        if sample.truth is not None:
            color = _RIGHT if sample.truth == sample.label else _WRONG
            if sample.truth != sample.label:
                text += f"\nis {shorten(sample.truth, 16)}"
        axes.set_title(text, fontsize=9, color=color)
    save_figure(figure, path)

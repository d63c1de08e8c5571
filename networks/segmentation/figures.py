"""Pictures for people: classes painted over images, and a sheet of them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from ...datasets.mask_classes import IGNORED
from ..figures import save_figure, shorten

Labels = npt.NDArray[np.uint8]

#: Share of the class's colour in a painted pixel.
_PAINT = 0.55

#: A legend of more classes is left out.
_LEGEND = 24


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    predicted_HW: Labels
    truth_HW: Labels | None
    """None where nobody knows it."""
    title: str


def palette(classes: int) -> npt.NDArray[np.uint8]:
    """Return a colour for each of 256 labels: black for the first class, white for no class."""
    colors = np.full((256, 3), 255, np.uint8)
    for label in range(classes):
        # why the golden ratio: neighbours differ, however many classes there are.
        hue, value = (label * 0.618034) % 1, (1.0, 0.75, 0.9)[label % 3]
        rgb = colorsys.hsv_to_rgb(hue, 0.85, value) if label else (0.0, 0.0, 0.0)
        colors[label] = [round(255 * part) for part in rgb]
    return colors


def mask_image(labels_HW: Labels, classes: int) -> Image.Image:
    """Return an index mask that shows its classes in colours."""
    image = Image.frombytes("P", labels_HW.shape[::-1], labels_HW.tobytes())
    image.putpalette(palette(classes).flatten().tolist())
    return image


def paint(image: Image.Image, labels_HW: Labels, classes: int) -> Image.Image:
    """Return the image with its classes in colours over it; the first class and no class stay as they are."""
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    painted = (1 - _PAINT) * pixels + _PAINT * palette(classes)[labels_HW]
    plain = (labels_HW == 0) | (labels_HW == IGNORED)
    return Image.fromarray(np.where(plain[..., None], pixels, painted).astype(np.uint8))


def draw_samples(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Draw a row per sample: the image, the truth where it is known, and the prediction."""
    with_truth = samples[0].truth_HW is not None
    columns = 3 if with_truth else 2
    figure = Figure(figsize=(2.6 * columns, 2.6 * len(samples) + 0.8), dpi=100, layout="constrained")
    for row, sample in enumerate(samples):
        pictures = [
            (sample.title, sample.image),
            ("prediction", paint(sample.image, sample.predicted_HW, len(classes))),
        ]
        if sample.truth_HW is not None:
            pictures.insert(1, ("truth", paint(sample.image, sample.truth_HW, len(classes))))
        for column, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(len(samples), columns, row * columns + column + 1)
            axes.imshow(picture, interpolation="nearest" if max(picture.size) < 200 else None)
            axes.set_axis_off()
            axes.set_title(shorten(title, 34), fontsize=8)
    if len(classes) <= _LEGEND:
        colors = palette(len(classes)) / 255
        handles = [Patch(color=tuple(colors[i]), label=shorten(name, 20)) for i, name in enumerate(classes) if i]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), fontsize=8)
    save_figure(figure, path)


def draw_per_class(path: Path, per_class: dict[str, dict[str, float]]) -> None:
    """Draw a bar with the IoU of each class."""
    figure = Figure(figsize=(6, 0.32 * len(per_class) + 1.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    names = [shorten(name, 24) for name in per_class]
    values = [metrics["IoU"] for metrics in per_class.values()]
    bars = axes.barh(range(len(names)), values, color="#2f6fb0")
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("IoU")
    save_figure(figure, path)

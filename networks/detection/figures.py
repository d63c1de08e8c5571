"""Pictures for people: boxes drawn on pictures, and a sheet of them."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ...datasets.box_index import BoxIndex
from ...datasets.boxes import DONT_CARE
from ..checkpoints import write_atomically
from ..figures import save_figure, shorten
from ..images import written_names
from .masks import unpack
from .metrics import Detections, Truth

#: Longest side in pixels of a picture on a sheet.
_ON_SHEET = 480

#: How much of a mask is its colour.
_COVER = 0.5


@dataclass(frozen=True)
class Sample:
    image: Image.Image
    found: Detections
    truth: Truth | None
    """None where nobody knows it."""
    title: str


def draw_boxes(image: Image.Image, what: Detections | Truth, classes: Sequence[str]) -> Image.Image:
    """Return the picture with boxes and masks on it, those of one class in one colour; regions to ignore are grey."""
    drawn = _with_masks(image.convert("RGB"), what)
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(max(drawn.size) / 300))
    font = ImageFont.load_default(size=max(8, max(drawn.size) / 50))
    scores = what.scores.tolist() if isinstance(what, Detections) else [None] * len(what.labels)
    rows = list(zip(what.boxes.tolist(), what.labels.tolist(), scores, strict=True))
    # why the surest last: it lies on top.
    for box, label, score in reversed(rows):
        is_ignored = label == DONT_CARE
        colour = (128, 128, 128) if is_ignored else _colour(label)
        pen.rectangle(box, outline=colour, width=width)
        text = "ignored" if is_ignored else shorten(classes[label], 20)
        pen.text((box[0] + width, box[1]), text if score is None else f"{text} {score:.2f}", fill=colour, font=font)
    return drawn


def draw_all(index: BoxIndex, found: Sequence[Detections], classes: Sequence[str], folder: Path) -> list[Path]:
    """Write each picture below `folder` with what was found in it."""
    paths = []
    for i, name in enumerate(written_names(index, ".jpg")):
        content = io.BytesIO()
        draw_boxes(index.image(i), found[i], classes).save(content, "JPEG", quality=90)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file, content=content: file.write(content.getvalue()))  # type: ignore[misc]
        paths.append(path)
    return paths


def _with_masks(image: Image.Image, what: Detections | Truth) -> Image.Image:
    if what.masks is None:
        return image
    pixels = np.array(image)
    for mask, label in reversed(list(zip(what.masks, what.labels.tolist(), strict=True))):
        if label != DONT_CARE:
            inside = unpack(mask)
            pixels[inside] = (pixels[inside] * (1 - _COVER) + np.array(_colour(label)) * _COVER).astype(np.uint8)
    return Image.fromarray(pixels)


def _colour(label: int) -> tuple[int, int, int]:
    # why the golden ratio: neighbours differ, however many classes there are.
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1, 0.9, (1.0, 0.8)[label % 2])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_samples(path: Path, samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Draw a row per sample: the truth where it is known, and the prediction."""
    with_truth = samples[0].truth is not None
    columns = 2 if with_truth else 1
    figure = Figure(figsize=(4.0 * columns, 3.2 * len(samples) + 0.4), dpi=100, layout="constrained")
    for row, sample in enumerate(samples):
        pictures = [(sample.title, draw_boxes(sample.image, sample.found, classes))]
        if sample.truth is not None:
            pictures.insert(0, ("truth", draw_boxes(sample.image, sample.truth, classes)))
        for column, (title, picture) in enumerate(pictures):
            axes = figure.add_subplot(len(samples), columns, row * columns + column + 1)
            picture.thumbnail((_ON_SHEET, _ON_SHEET))
            axes.imshow(picture)
            axes.set_axis_off()
            axes.set_title(shorten(title, 50), fontsize=8)
    save_figure(figure, path)


def draw_per_class(path: Path, per_class: dict[str, dict[str, float]]) -> None:
    """Draw a bar with the AP50 of each class."""
    figure = Figure(figsize=(6, 0.32 * len(per_class) + 1.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(range(len(per_class)), [values["AP50"] for values in per_class.values()], color="#2f6fb0")
    axes.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
    axes.set_yticks(range(len(per_class)), [shorten(name, 24) for name in per_class])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("AP at IoU 0.5")
    save_figure(figure, path)

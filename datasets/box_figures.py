"""Pictures of an analysis: class balance, sizes, places and numbers of boxes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .box_analysis import Analysis

#: More classes than this are summed up in one bar, rarest first.
_SHOWN_CLASSES = 40


def draw_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Write the figures of a set as PNG files into `folder` and return them; none for a set without boxes."""
    if not analysis.boxes:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_class_balance(analysis, folder), _sizes(analysis, folder), _places(analysis, folder)]
    return [*drawn, _per_picture(analysis, folder)]


def _class_balance(analysis: Analysis, folder: Path) -> Path:
    rows = sorted(analysis.classes, key=lambda row: row.boxes, reverse=True)
    names = [_shorten(row.name) for row in rows[:_SHOWN_CLASSES]]
    counts = [(row.small, row.medium, row.large) for row in rows[:_SHOWN_CLASSES]]
    if rest := rows[_SHOWN_CLASSES:]:
        names.append(f"{len(rest)} more")
        counts.append((sum(r.small for r in rest), sum(r.medium for r in rest), sum(r.large for r in rest)))
    figure, axes = _figure(height=1.5 + 0.28 * len(names))
    before = np.zeros(len(names))
    parts = (("small", "#9ecae1"), ("medium", "#4292c6"), ("large", "#08519c"))
    for (size, color), part in zip(parts, np.array(counts).T, strict=True):
        axes.barh(names, part, left=before, color=color, label=size)
        before += part
    axes.invert_yaxis()
    axes.set_xlabel("boxes")
    axes.set_title(f"{analysis.boxes} boxes in {analysis.pictures} pictures")
    axes.legend(title="size (COCO)", frameon=False)
    return _save(figure, folder / "class_balance.png")


def _sizes(analysis: Analysis, folder: Path) -> Path:
    figure, axes = _figure()
    if len(analysis.widths) > 2000:
        image = axes.hexbin(analysis.widths, analysis.heights, gridsize=50, bins="log", cmap="Blues", mincnt=1)
        figure.colorbar(image, ax=axes, label="boxes")
    else:
        axes.scatter(analysis.widths, analysis.heights, s=8, alpha=0.5, linewidths=0)
    axes.set_xlabel("width in pixels")
    axes.set_ylabel("height in pixels")
    axes.set_title(f"Sizes of boxes; the median takes {np.median(analysis.shares):.1%} of its picture")
    return _save(figure, folder / "box_sizes.png")


def _places(analysis: Analysis, folder: Path) -> Path:
    figure, axes = _figure()
    counts, _, _ = np.histogram2d(
        analysis.centres[:, 1], analysis.centres[:, 0], bins=24, range=[[0.0, 1.0], [0.0, 1.0]]
    )
    image = axes.imshow(counts, cmap="Blues", extent=(0, 1, 1, 0), aspect="auto")
    figure.colorbar(image, ax=axes, label="boxes")
    axes.set_xlabel("share of the width")
    axes.set_ylabel("share of the height")
    axes.set_title("Where the middles of the boxes are")
    return _save(figure, folder / "box_places.png")


def _per_picture(analysis: Analysis, folder: Path) -> Path:
    figure, axes = _figure()
    most = int(analysis.boxes_per_picture.max())
    axes.hist(analysis.boxes_per_picture, bins=np.linspace(-0.5, most + 0.5, min(most, 50) + 2).tolist())
    axes.set_xlabel("boxes in a picture")
    axes.set_ylabel("pictures")
    axes.set_title(f"{analysis.empty_pictures} of {analysis.pictures} pictures have no box")
    return _save(figure, folder / "boxes_per_picture.png")


def _figure(height: float = 5.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _shorten(name: str, limit: int = 28) -> str:
    # why: matplotlib takes what stands between two dollars for a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _save(figure: Figure, path: Path) -> Path:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    path.write_bytes(content.getvalue())
    return path

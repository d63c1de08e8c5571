"""The analyze and validate services: what a detection set holds, and what is wrong with it, as tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .box_folder import ReadOptions
from .box_formats import Inspection, inspect_boxes
from .boxes import DONT_CARE, DONT_CARE_NAME
from .problems import Problems

#: COCO's bounds between small, medium and large objects, in square pixels.
_MEDIUM_FROM, _LARGE_FROM = 32**2, 96**2

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRow:
    """One class in numbers; sizes are medians in pixels, None for a class without boxes."""

    name: str
    boxes: int
    share: float
    """Of all boxes, 0 to 1."""
    pictures: int
    """With at least one box of the class."""
    small: int
    medium: int
    large: int
    width: float | None
    height: float | None
    crowd: int
    difficult: int
    truncated: int
    occluded: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """A set in numbers. The arrays have one element per box, in one order."""

    pictures: int
    empty_pictures: int
    boxes: int
    classes: tuple[ClassRow, ...]
    """In the order of the labels; regions to ignore last, if there are any."""
    problems: Problems
    notes: tuple[str, ...]
    widths: Floats
    heights: Floats
    shares: Floats
    """Area of the box, as a share of its picture."""
    centres: Floats
    """N2: x and y of the middle, as shares of the picture's width and height."""
    boxes_per_picture: npt.NDArray[np.int64]

    @property
    def imbalance(self) -> float | None:
        """How many times more boxes the commonest class has than the rarest; None with fewer than two classes."""
        counts = [row.boxes for row in self.classes if row.name != DONT_CARE_NAME and row.boxes]
        return max(counts) / min(counts) if len(counts) > 1 else None


def validate_boxes(root: Path, format: str, options: ReadOptions | None = None) -> Inspection:
    """Return every problem of the set below `root`; all pictures are decoded to their last pixel.

    Raises:
        DatasetError: the layout is not that of `format`, so that nothing can be read.
    """
    return inspect_boxes(root, format, replace(options or ReadOptions(), decode=True))


def analyze_boxes(inspection: Inspection) -> Analysis:
    """Return what was read of a set in numbers; what is broken is in `problems` and not counted."""
    found = inspection.boxes
    every = [(number, picture, box) for number, picture in enumerate(found.pictures) for box in picture.boxes]
    labels = np.array([box.label for _, _, box in every], dtype=np.int64)
    picture_of = np.array([number for number, _, _ in every], dtype=np.int64)
    edges = np.array([box.xyxy for _, _, box in every], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([(p.width, p.height) for _, p, _ in every], dtype=np.float64).reshape(-1, 2)
    sides = edges[:, 2:] - edges[:, :2]
    areas = sides.prod(axis=1)
    flags = np.array(
        [(b.crowd, b.difficult, b.truncated > 0, b.occluded > 0) for _, _, b in every], dtype=bool
    ).reshape(-1, 4)

    def row(name: str, label: int) -> ClassRow:
        of = labels == label
        crowd, difficult, truncated, occluded = (int(n) for n in flags[of].sum(axis=0))
        width, height = np.median(sides[of], axis=0).tolist() if of.any() else (None, None)
        return ClassRow(
            name=name,
            boxes=int(of.sum()),
            share=float(of.mean()) if len(labels) else 0.0,
            pictures=len(np.unique(picture_of[of])),
            small=int((areas[of] < _MEDIUM_FROM).sum()),
            medium=int(((areas[of] >= _MEDIUM_FROM) & (areas[of] < _LARGE_FROM)).sum()),
            large=int((areas[of] >= _LARGE_FROM).sum()),
            width=width,
            height=height,
            crowd=crowd,
            difficult=difficult,
            truncated=truncated,
            occluded=occluded,
        )

    rows = [row(name, label) for label, name in enumerate(found.class_names)]
    if (labels == DONT_CARE).any():
        rows.append(row(DONT_CARE_NAME, DONT_CARE))
    counts = np.bincount(picture_of, minlength=len(found.pictures))
    return Analysis(
        pictures=len(found.pictures),
        empty_pictures=int((counts == 0).sum()),
        boxes=len(every),
        classes=tuple(rows),
        problems=inspection.problems,
        notes=found.notes,
        widths=sides[:, 0],
        heights=sides[:, 1],
        shares=areas / sizes.prod(axis=1),
        centres=(edges[:, :2] + edges[:, 2:]) / 2 / sizes,
        boxes_per_picture=counts,
    )


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write `summary.json`, `classes.csv` and `problems.csv` into `folder` and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {
        "pictures": analysis.pictures,
        "empty_pictures": analysis.empty_pictures,
        "boxes": analysis.boxes,
        "boxes_per_picture": analysis.boxes / analysis.pictures if analysis.pictures else None,
        "imbalance": analysis.imbalance,
        "problems": dict(analysis.problems.counts),
        "notes": list(analysis.notes),
        "classes": [asdict(row) for row in analysis.classes],
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    names = list(ClassRow.__dataclass_fields__)
    _write_csv(folder / "classes.csv", names, ([getattr(row, name) for name in names] for row in analysis.classes))
    return [folder / "summary.json", folder / "classes.csv", write_problems(analysis.problems, folder)]


def write_problems(problems: Problems, folder: Path) -> Path:
    """Write `problems.csv`, a line per problem (of very many the first ten thousand), and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ([p.kind, p.where, p.what, p.hint] for p in problems.found)
    _write_csv(folder / "problems.csv", ["kind", "where", "what", "hint"], rows)
    return folder / "problems.csv"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> object:
    # why: a spreadsheet runs what begins like this as a formula, and names of files and classes come from strangers.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")) else value

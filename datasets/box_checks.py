"""The checks that a box passes whatever its format, and what happens to boxes that leave their picture."""

from __future__ import annotations

import math
from enum import StrEnum

from .boxes import to_pixels
from .problems import Problems

#: Edges may lie so far outside and are then pulled in silently: tools round on the way through float32 and text.
TOLERANCE_PX = 0.01

#: Size of a picture that is not at hand: no box leaves it.
ANY_SIZE = (2**31, 2**31)

_OUTSIDE_HINT = (
    "Correct the annotations, or convert the data set with outside=clip: that cuts boxes off and leaves out empty ones."
)


class Outside(StrEnum):
    """What happens to a box that leaves its picture or has no area."""

    REFUSE = "refuse"
    CLIP = "clip"
    """Cut off what is outside; leave the box out when nothing remains."""


Edges = tuple[float, float, float, float]


def checked_edges(
    edges: Edges, width: int, height: int, outside: Outside, where: str, problems: Problems
) -> Edges | None:
    """Return left, top, right and bottom of a box as they are kept, or None when it is to be left out.

    A problem goes to `problems`; the caller goes on with the next box.
    """
    if not all(map(math.isfinite, edges)):
        problems.add("not a number", where, f"the box {_shown(edges)} has edges that are no finite numbers")
        return None
    x1, y1, x2, y2 = edges
    if outside is Outside.REFUSE:
        if x2 - x1 <= 0 or y2 - y1 <= 0:
            problems.add("empty box", where, f"the box {_shown(edges)} has no area", _OUTSIDE_HINT)
            return None
        low, right, bottom = -TOLERANCE_PX, width + TOLERANCE_PX, height + TOLERANCE_PX
        if x1 < low or y1 < low or x2 > right or y2 > bottom:
            problems.add(
                "box outside the picture",
                where,
                f"the box {_shown(edges)} leaves the picture of {width} x {height} pixels",
                _OUTSIDE_HINT,
            )
            return None
    x1, x2 = (to_pixels(min(max(x, 0.0), float(width))) for x in (x1, x2))
    y1, y2 = (to_pixels(min(max(y, 0.0), float(height))) for y in (y1, y2))
    if x2 > x1 and y2 > y1:
        return x1, y1, x2, y2
    if outside is Outside.REFUSE:
        problems.add("empty box", where, f"the box {_shown(edges)} has no area in its picture", _OUTSIDE_HINT)
    else:
        problems.left_out += 1
    return None


def parse_number(text: str) -> float | None:
    """Return the number that a file spells, inf and nan among them; None for what is no number."""
    try:
        # why: Python reads 1_000 as a number, and nothing else that reads these files does.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _shown(edges: Edges) -> str:
    return f"({', '.join(f'{edge:g}' for edge in edges)})"

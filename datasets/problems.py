"""What is wrong with a data set, collected: a user wants to see the first ten faults at once, not one an upload."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..schemas.errors import DatasetError

_SHOWN = 10
#: More are counted only: a set may be wrong in every line.
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` is a file with line or index, `what` the rest of the sentence, `kind` a word to count by."""

    kind: str
    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class Problems:
    """Takes problems in the order in which a reader finds them."""

    found: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: int = 0
    """Boxes of which clipping left nothing."""

    def add(self, kind: str, where: str, what: str, hint: str = "") -> None:
        self.counts[kind] += 1
        if len(self.found) < _KEPT:
            self.found.append(Problem(kind, where, what, hint))

    @property
    def count(self) -> int:
        return self.counts.total()

    def refuse(self) -> None:
        """Raise `DatasetError` with the number of problems and the first ten, when there is any."""
        if not self.found:
            return
        shown = self.found[:_SHOWN]
        # why: the hint of the commonest kind helps most, and ten hints help nobody.
        commonest = self.counts.most_common(1)[0][0]
        hint = next((problem.hint for problem in self.found if problem.kind == commonest and problem.hint), "")
        if self.count == 1:
            raise DatasetError(f"{shown[0]}.", hint=hint)
        more = f"; and {self.count - len(shown)} more" if self.count > len(shown) else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        raise DatasetError(
            f"{self.count} problems in the annotations ({kinds}). {'; '.join(map(str, shown))}{more}.", hint=hint
        )

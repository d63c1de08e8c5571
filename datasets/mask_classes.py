"""Which class each value of a set of masks means."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from ..schemas.errors import DatasetError
from .masks import VOID, Values, color_value, is_color, show_value, show_values

#: Label of pixels that count neither in the loss nor in the metrics, so there are at most 255 classes.
IGNORED = 255

#: A class of this name is none: its pixels are left out.
IGNORED_NAME = "ignore"

_MAX_CLASSES_BYTES = 2**20
_HINT = (
    "Give the masks the values of the classes, or name all classes: in classes.txt, one a line as `name` or "
    "`name red green blue`, or in the spec."
)


class ValueClass(NamedTuple):
    """A line of a list of classes: `value` in a mask is of the class `name`; several values may be of one class."""

    name: str
    value: int


class MaskValues(NamedTuple):
    """The values that occur in the mask `path`."""

    path: str
    values: Sequence[int]


class MaskClasses(BaseModel):
    """The classes of masks and the values that mean them. Part of models, so it is plain JSON."""

    model_config = ConfigDict(frozen=True)

    classes: list[str]
    labels: dict[int, int] = Field(description="Value in a mask to the number of its class, or 255 for none.")

    def check(self, masks: Iterable[MaskValues]) -> None:
        """Raise `DatasetError` with the first mask that has a value without a class."""
        bad = [(mask.path, left) for mask in masks if (left := [v for v in mask.values if v not in self.labels])]
        if bad:
            path, values = bad[0]
            more = f" So do {len(bad) - 1} more masks." if len(bad) > 1 else ""
            known = ", ".join(
                f"{show_value(value)} ({'ignored' if label == IGNORED else self.classes[label]})"
                for value, label in list(self.labels.items())[:10]
            )
            raise DatasetError(
                f"{path} holds values that are of no class: {show_values(values)}.{more} The values of the classes "
                f"are {known}{', ...' if len(self.labels) > 10 else ''}.",
                hint=_HINT,
            )

    def counts(self, masks: Iterable[MaskValues]) -> dict[str, int]:
        """Return how many masks have pixels of each class, in the order of the labels."""
        found = dict.fromkeys(self.classes, 0)
        for mask in masks:
            for label in {self.labels[value] for value in mask.values} - {IGNORED}:
                found[self.classes[label]] += 1
        return found

    def label_map(self, values_HW: Values) -> npt.NDArray[np.uint8]:
        """Return the number of the class of every pixel; all values must be known, see `check`."""
        keys = np.array(sorted(self.labels), dtype=np.int32)
        labels = np.array([self.labels[int(key)] for key in keys], dtype=np.uint8)
        return labels[np.searchsorted(keys, values_HW)]


def classes_of_masks(masks: Sequence[MaskValues], listed: Sequence[ValueClass] | None) -> MaskClasses:
    """Return the classes of a set of masks: those that are `listed`, else one for each value that occurs.

    255 is no class unless it is listed. In masks of 0 and 255 alone it is the second class of two.

    Raises:
        DatasetError: a mask has a value that is not listed, or there are too many classes.
    """
    found = sorted({value for mask in masks for value in mask.values})
    is_black_and_white = VOID in found and set(found) <= {0, VOID}
    if listed is None:
        is_void = VOID in found and not is_black_and_white and not any(map(is_color, found))
        listed = [ValueClass(show_value(value), value) for value in found if not (is_void and value == VOID)]
    elif is_black_and_white and [entry.value for entry in listed] == [0, 1]:
        listed = [listed[0], ValueClass(listed[1].name, VOID)]
    names = list(dict.fromkeys(entry.name for entry in listed if entry.name != IGNORED_NAME))
    if len(names) > IGNORED:
        raise DatasetError(f"There are {len(names)} classes, more than {IGNORED}.", hint=_HINT)
    labels = {
        entry.value: IGNORED if entry.name == IGNORED_NAME else names.index(entry.name)
        for entry in sorted(listed, key=lambda entry: entry.value)
    }
    known = MaskClasses(classes=names, labels={**labels, VOID: labels.get(VOID, IGNORED)})
    known.check(masks)
    return known


def require_two_mask_classes(counts: dict[str, int]) -> None:
    """Raise `DatasetError` when fewer than two classes have pixels."""
    present = [name for name, count in counts.items() if count]
    if len(present) < 2:
        found = f"only {present[0]!r} occurs" if present else "none occurs"
        raise DatasetError(
            f"Segmentation needs at least two classes, and {found} in the masks.",
            hint="The value 255 counts as no class unless the masks hold nothing but 0 and 255, or a class has it.",
        )


def read_class_list(content: bytes, name: str) -> list[ValueClass]:
    """Return the classes in a file with one a line: its number from 0 is its value, or the three numbers behind it.

    Raises:
        DatasetError: with the line that is wrong.
    """
    if len(content) > _MAX_CLASSES_BYTES:
        raise DatasetError(f"{name} is larger than 1 MiB.", hint="Write one class a line.")
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{name} is not UTF-8 text.", hint="Save it as UTF-8, one class a line.") from error
    entries = [(number, _split(line)) for number, line in enumerate(lines, start=1) if line.strip()]
    if not entries:
        raise DatasetError(f"{name} lists no class.", hint="Write one class a line, or leave the file out.")
    with_colors = [color is not None for _, (_, color) in entries]
    if any(with_colors) and not all(with_colors):
        number = entries[with_colors.index(False)][0]
        raise DatasetError(
            f"{name}, line {number}: no colour, and other lines have one.", hint="Write `name red green blue`."
        )
    found: list[ValueClass] = []
    for number, (class_name, color) in entries:
        value = len(found) if color is None else color
        if any(entry.value == value for entry in found):
            raise DatasetError(f"{name}, line {number}: the colour {show_value(value)} is there twice.", hint=_HINT)
        if color is None and any(entry.name == class_name for entry in found):
            raise DatasetError(
                f"{name}, line {number}: the class {class_name!r} is there twice.", hint="Name each class once."
            )
        found.append(ValueClass(class_name, value))
    return found


def _split(line: str) -> tuple[str, int | None]:
    """Return the name in a line and the value of the colour behind it."""
    words = unicodedata.normalize("NFC", line.strip()).split()
    last = words[-3:]
    if len(words) > 3 and all(word.isascii() and word.isdigit() and int(word) < 256 for word in last):
        return " ".join(words[:-3]), color_value(*map(int, last))
    return " ".join(words), None

"""Specs that say in the words of one network what the spec of its family says.

The networks of a family have one trainer, which knows the family's specs alone. A network whose API document
has other words describes its own spec as a `DialectSpec`: a table of names, and code only where a value is
written in another way too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from pydantic import ValidationError, model_validator

from ..schemas.errors import YardError
from ..schemas.specs import Spec


class DialectSpec(Spec):
    """A spec with another name for each parameter or section of `FAMILY`."""

    FAMILY: ClassVar[type[Spec]]
    NAMES: ClassVar[Mapping[str, str]]
    """Dotted name here, of a parameter or a section -> in the family."""

    def converted(self) -> dict[str, Any]:
        """Return values for dotted names of the family that are not simply copied. They win over `NAMES`."""
        return {}

    def settings(self) -> Any:
        """Return the same in the words of the family.

        Raises:
            pydantic.ValidationError: the family refuses a value; never after validation.
        """
        own = self.model_dump()
        raw: dict[str, Any] = {}
        for name, path in self.NAMES.items():
            _set(raw, path, _get(own, name))
        for path, value in self.converted().items():
            _set(raw, path, value)
        return self.FAMILY.model_validate(raw)

    def renamed(self, text: str) -> str:
        """Return a sentence of the family with the names of this spec."""
        return rename(text, self.NAMES)

    @model_validator(mode="after")
    def _is_valid_for_the_family(self) -> Self:
        try:
            self.settings()
        except ValidationError as error:
            raise ValueError("; ".join(self._told(e) for e in error.errors())) from error
        return self

    def _told(self, error: Mapping[str, Any]) -> str:
        """Return an error of the family's validation; sections that are none here are left out."""
        path = ".".join(map(str, error["loc"]))
        name = self.renamed(path)
        message = self.renamed(str(error["msg"]).removeprefix("Value error, "))
        return f"{name}: {message}" if name != path or path in self.NAMES else message


def rename(text: str, names: Mapping[str, str]) -> str:
    """Return `text` with the dotted names that are values of `names` replaced by their keys."""
    back = {path: name for name, path in names.items()}
    # why the longest first: a parameter may have a name of its own in a section that has one.
    paths = "|".join(re.escape(path) for path in sorted(back, key=len, reverse=True))
    return re.sub(rf"(?<![\w.])({paths})(?!\w)", lambda found: back[found[0]], text)


def in_own_words(spec: Spec, text: str) -> str:
    """Return a sentence of the family with the names of parameters that the user of `spec` knows."""
    return spec.renamed(text) if isinstance(spec, DialectSpec) else text


@contextmanager
def in_words_of(spec: Spec) -> Iterator[Any]:
    """Give the settings of a spec to the block, and let errors in it speak of the parameters that the user knows."""
    if not isinstance(spec, DialectSpec):
        yield spec
        return
    try:
        yield spec.settings()
    except YardError as error:
        error.message, error.hint = spec.renamed(error.message), spec.renamed(error.hint)
        error.args = (error.message,)
        raise


def _get(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for part in path.split("."):
        found = found[part]
    return found


def _set(values: dict[str, Any], path: str, value: object) -> None:
    *sections, last = path.split(".")
    for part in sections:
        values = values.setdefault(part, {})
    if isinstance(value, dict) and isinstance(values.get(last), dict):
        values[last].update(value)
    else:
        values[last] = value

"""In which line of a JSON text an element stands: Python's parser does not say, and users look for it."""

from __future__ import annotations

import json
import re
from bisect import bisect_left

_BLANK = re.compile(r"[ \t\r\n]*")


class JsonLines:
    """Finds elements of the lists at the top of a JSON object. The text must be valid; it is read on first use."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: dict[str, list[int]] | None = None
        self._newlines: list[int] = []

    def line(self, key: str, position: int) -> int:
        """Return the line, from 1, in which element `position` of the list `key` begins."""
        if self._starts is None:
            self._newlines = [match.start() for match in re.finditer("\n", self._text)]
            self._starts = self._read()
        return bisect_left(self._newlines, self._starts[key][position]) + 1

    def _read(self) -> dict[str, list[int]]:
        text, decode = self._text, json.JSONDecoder().raw_decode
        starts: dict[str, list[int]] = {}
        at = self._skip(0) + 1
        while text[at := self._skip(at)] != "}":
            key, at = decode(text, at)
            at = self._skip(self._skip(at) + 1)
            if text[at] == "[":
                # why: of two equal keys the parser keeps the last, as this does.
                starts[key], at = self._elements(at)
            else:
                _, at = decode(text, at)
            at = self._skip(at)
            at += text[at] == ","
        return starts

    def _elements(self, at: int) -> tuple[list[int], int]:
        text, decode = self._text, json.JSONDecoder().raw_decode
        starts = []
        at += 1
        while text[at := self._skip(at)] != "]":
            starts.append(at)
            _, at = decode(text, at)
            at = self._skip(at)
            at += text[at] == ","
        return starts, at + 1

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

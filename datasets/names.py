"""Which names of files people may send."""

from __future__ import annotations

import unicodedata

# why: controls and lone surrogates break logs, terminals and JSON; the rest of the "format" characters are
# needed to write Persian or emoji, but those that turn the direction of text can disguise a name.
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def name_problem(name: str) -> str | None:
    """Return what is wrong with the characters of a file name ("has ..."), or None."""
    if name.isascii() and name.isprintable():
        return None
    for character in name:
        if unicodedata.category(character) in _REFUSED_CATEGORIES:
            return "has characters that do not print"
        if character in _DIRECTION:
            return "has characters that turn the direction of text"
    return None

"""Short readable ids: a letter and the UUID in base32. Wherever an id is taken, both are."""

from __future__ import annotations

import base64
import re
from uuid import UUID

_RID = re.compile(r"[a-z]-[a-z2-7]{26}")


def rid_of(letter: str, id: UUID) -> str:
    return f"{letter}-{base64.b32encode(id.bytes).decode().rstrip('=').lower()}"


def read_id(text: str) -> UUID | None:
    """Return the UUID that a text stands for, None when it is neither an id nor a rid."""
    try:
        if _RID.fullmatch(text):
            return UUID(bytes=base64.b32decode(f"{text[2:].upper()}======"))
        return UUID(text)
    except ValueError:
        return None

"""Query parameters of lists."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import JSONResponse

from ....networks.registry import network_name
from ....schemas.errors import InvalidInput
from ...deps import Scope
from ...services.paging import SIZE_MAX, Match, Page
from .schemas import SortAll, SortJobs

_INT32_MAX = 2**31 - 1

Skip = Annotated[int, Query(ge=0, le=_INT32_MAX, description="Optional skip for pagination")]
Size = Annotated[int, Query(ge=0, le=_INT32_MAX, description=f"Optional size for pagination, {SIZE_MAX} at most")]
Sort = Annotated[SortAll, Query(description="Optional sort")]
JobSort = Annotated[SortJobs, Query(description="Optional sort")]
Filter = Annotated[str | None, Query(max_length=5000, description="Optional filter; a leading ! negates it")]


def page(skip: int, size: int, sort: str) -> Page:
    key, _, direction = sort.partition("-")
    return Page(skip=skip, size=size, by_name=key == "name", ascending=direction == "ascending")


def matches(allowed: dict[str, tuple[str, ...] | None], given: dict[str, str | None]) -> list[Match]:
    """Return filters of words; a word that is none of those allowed is an error."""
    found = []
    for name, text in given.items():
        if text is None:
            continue
        negated = text.startswith("!")
        word = text[1:] if negated else text
        words = allowed[name]
        if words is not None and word not in words:
            raise InvalidInput(f"{name}: {word[:100]!r} is none of {', '.join(words)}.")
        found.append(Match(name, network_name(word) if name == "network" else word, negated))
    return found


def flag(name: str, text: str | None) -> Match | None:
    """Return a filter on a yes or no."""
    if text is None:
        return None
    negated = text.startswith("!")
    word = (text[1:] if negated else text).lower()
    if word not in ("true", "false", "1", "0"):
        raise InvalidInput(f"{name}: {word[:100]!r} is neither true nor false.")
    return Match(name, word in ("true", "1"), negated)


def list_out(key: str, items: list[dict[str, Any]], total: int, window: Page, scope: Scope) -> JSONResponse:
    """Return a list as an array, or as an object for clients from 5.5 on."""
    headers = {"X-Pagination-Total": str(total)}
    if not scope.lists_are_objects:
        return JSONResponse(items, headers=headers)
    size = max(1, min(window.size, SIZE_MAX))
    info = {
        "total_records": total,
        "total_pages": -(-total // size),
        "page_size": size,
        "page_index": window.skip // size,
    }
    return JSONResponse({key: items, "pagination_info": info}, headers=headers)

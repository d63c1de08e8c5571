"""Filters, order and pages of lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

R = TypeVar("R")

#: Most rows of one page; the total tells a client that there are more.
SIZE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Match:
    """A field has a value, or has not."""

    field: str
    value: object
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A window of a list."""

    skip: int = 0
    size: int = SIZE_MAX
    by_name: bool = False
    ascending: bool = False


def conditions(
    columns: Mapping[str, ColumnElement[Any] | InstrumentedAttribute[Any]], matches: Sequence[Match]
) -> list[ColumnElement[bool]]:
    """Return SQL conditions for matches on known columns."""
    return [
        columns[match.field] != match.value if match.negated else columns[match.field] == match.value
        for match in matches
    ]


async def read_page(
    session: AsyncSession, query: Select[R], model: Any, page: Page, *, lead: int = 0
) -> tuple[list[R], int]:
    """Return the rows of a page and how many there are in all. Ids break ties, so pages never overlap.

    `lead` rows before the page come with it, as far as there are so many.
    """
    first = max(0, page.skip - lead)
    limit = min(page.size, SIZE_MAX) + page.skip - first
    total = await session.scalar(select(func.count()).select_from(query.subquery()))
    column = model.name if page.by_name else model.created_at
    key = (column.asc(), model.id.asc()) if page.ascending else (column.desc(), model.id.desc())
    rows = await session.scalars(query.order_by(*key).offset(first).limit(limit))
    return list(rows), total or 0

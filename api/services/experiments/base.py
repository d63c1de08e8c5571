"""Base experiments: those that lie in the storage, and how one gets there."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from pydantic import ValidationError

from ....blocks import ArtifactStorage, layout
from ....schemas.base_experiments import RECORD_FILE, WEIGHTS_FILE, BaseExperiment
from ....schemas.errors import InvalidInput, NotFound
from ..paging import SIZE_MAX, Match, Page
from .specs import find_network

V = TypeVar("V")

#: An operator adds one now and then; the storage is not asked for every list.
_FRESH_S = 30.0
_KNOWN: dict[str, Callable[[BaseExperiment], object]] = {
    "name": lambda base: base.name,
    "kind": lambda base: "vision",
    "network": lambda base: base.network,
    "read_only": lambda base: True,
    "version": lambda base: base.version,
}


class BaseExperimentService:
    def __init__(self, storage: ArtifactStorage) -> None:
        self._storage = storage
        self._found: dict[UUID, BaseExperiment] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def find(self, base_id: UUID) -> BaseExperiment | None:
        """Return one of those known already."""
        return (await self._all()).get(base_id)

    async def read(self, base_id: UUID) -> BaseExperiment:
        """Return one, be it of this moment.

        Raises:
            NotFound: there is none with that id.
        """
        found = await self.find(base_id) or (await self._all(fresh_s=0.0)).get(base_id)
        if found is None:
            raise NotFound("Base experiment not found.", hint="GET .../experiments:base lists those there are.")
        return found

    async def read_list(self, matches: Sequence[Match] = (), page: Page | None = None) -> list[BaseExperiment]:
        """Return those that match, in the order of `page`; all of them, its window does not count."""
        window = page or Page()
        found = [base for base in (await self._all()).values() if all(_fits(base, match) for match in matches)]
        return sorted(found, key=lambda base: sort_key(base, window), reverse=not window.ascending)

    async def _all(self, fresh_s: float = _FRESH_S) -> dict[UUID, BaseExperiment]:
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at >= fresh_s:
                self._found = {base.id: base for base in await asyncio.to_thread(stored, self._storage)}
                self._read_at = time.monotonic()
            return self._found


def sort_key(base: BaseExperiment, page: Page) -> tuple[object, str]:
    """Return what a base experiment is sorted by, as `read_page` sorts rows."""
    return (base.name if page.by_name else base.created_at, base.id.hex)


def stored(storage: ArtifactStorage) -> list[BaseExperiment]:
    """Return all base experiments of a storage."""
    found = []
    for name in storage.list_names(layout.base_experiments()):
        try:
            content = storage.read_json(f"{layout.base_experiment(UUID(name))}/{RECORD_FILE}")
            found.append(BaseExperiment.model_validate(content))
        except (NotFound, ValidationError, ValueError):
            continue  # no base experiment, or one that is just being written
    return found


def add(
    storage: ArtifactStorage,
    weights: Path,
    *,
    network: str,
    name: str,
    version: str,
    description: str = "",
    licence: str = "",
) -> BaseExperiment:
    """Put weights into a storage as a base experiment.

    Raises:
        InvalidInput: no such network, a name that will not do, or no safetensors file.
    """
    # Late: the facade never reads weights.
    from safetensors import SafetensorError, safe_open

    record = find_network(network)
    try:
        with safe_open(weights, framework="numpy") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            f"{weights}: it is not a safetensors file that can be read.", hint="Convert the weights first."
        ) from error
    with weights.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    try:
        base = BaseExperiment(
            id=uuid4(),
            name=name,
            version=version,
            network=record.name,
            description=description,
            licence=licence,
            sha256=sha256,
            size_bytes=weights.stat().st_size,
            created_at=datetime.now(UTC),
        )
    except ValidationError as error:
        wrong = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise InvalidInput(f"{wrong}: letters, digits, dots, dashes and underscores are allowed.") from error
    folder = layout.base_experiment(base.id)
    storage.upload_file(weights, f"{folder}/{WEIGHTS_FILE}")
    # Last: without its record it is no base experiment.
    storage.write_json(f"{folder}/{RECORD_FILE}", base.model_dump(mode="json"))
    return base


def merge_page(
    views: Sequence[V], first: int, key: Callable[[V], tuple[object, str]], bases: Sequence[BaseExperiment], page: Page
) -> list[V | BaseExperiment]:
    """Return the page of a list of both kinds.

    `views` are the rows from place `first` of their own list on, up to the end of the page and starting
    `len(bases)` before it; `key` sorts them as `sort_key` sorts base experiments.
    """
    entries: list[tuple[tuple[Any, str], V | BaseExperiment]] = [
        *((key(view), view) for view in views),
        *((sort_key(base, page), base) for base in bases),
    ]
    entries.sort(key=lambda entry: entry[0], reverse=not page.ascending)
    start = first
    if first > 0:  # base experiments before the first row are on earlier pages
        while entries and isinstance(entries[0][1], BaseExperiment):
            del entries[0]
            start += 1
    begin = page.skip - start
    return [entry for _, entry in entries[begin : begin + min(page.size, SIZE_MAX)]]


def _fits(base: BaseExperiment, match: Match) -> bool:
    known = _KNOWN.get(match.field)
    return known is not None and (known(base) == match.value) != match.negated

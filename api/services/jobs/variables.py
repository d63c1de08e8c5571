"""Environment variables that users give to the jobs of an experiment or a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ...catalog.clouds import JobVariables
from ..accounts.secrets import SecretBox

#: Shown in place of every value; whoever sends it back leaves the value as it is.
HIDDEN = "********"


class VariableBook:
    """Keeps them encrypted and shows nothing but their names."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    async def write(self, session: AsyncSession, org: str, owner_id: UUID, given: Mapping[str, str] | None) -> None:
        """Replace the variables of an owner; None leaves them."""
        if given is None:
            return
        row = await session.get(JobVariables, owner_id)
        before = self._open(row) if row is not None else {}
        kept = {name: before.get(name, "") if value == HIDDEN else value for name, value in given.items()}
        if not kept:
            if row is not None:
                await session.delete(row)
            return
        if row is None:
            row = JobVariables(owner_id=owner_id, org=org)
            session.add(row)
        row.names, row.secret = sorted(kept), self._box.encrypt(json.dumps(kept))

    async def read_sealed(self, session: AsyncSession, owner_id: UUID | None) -> bytes | None:
        """Return the variables of an owner as jobs get them, encrypted; None where there are none."""
        row = await session.get(JobVariables, owner_id) if owner_id is not None else None
        return row.secret.encode() if row is not None else None

    async def read_names(self, session: AsyncSession, owner_ids: Sequence[UUID]) -> dict[UUID, tuple[str, ...]]:
        """Return the names of the variables of owners; those without any are not in it."""
        rows = await session.scalars(select(JobVariables).where(JobVariables.owner_id.in_(owner_ids)))
        return {row.owner_id: tuple(row.names) for row in rows}

    async def forget(self, session: AsyncSession, owner_id: UUID) -> None:
        if (row := await session.get(JobVariables, owner_id)) is not None:
            await session.delete(row)

    def _open(self, row: JobVariables) -> dict[str, str]:
        return dict(json.loads(self._box.decrypt(row.secret)))

"""Variables that all commands of an org or of a project get. Nobody reads their values but the commands."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, or_, select

from ....schemas.errors import InvalidInput, NotFound
from ...catalog import Catalog
from ...catalog.commands import OrgSecret
from ..accounts.secrets import SecretBox

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_VALUE_MAX = 32_768
_MOST = 500
#: Not for users to set: by these a worker knows what belongs to a job.
_TAKEN = ("TRAINYARD_", "PREFECT__")


class VariableService:
    def __init__(self, catalog: Catalog, box: SecretBox) -> None:
        self._catalog = catalog
        self._box = box

    async def read_list(self, org: str) -> list[OrgSecret]:
        """Return the variables of an org and of all its projects, by name."""
        query = select(OrgSecret).where(OrgSecret.org == org).order_by(OrgSecret.name, OrgSecret.created_at)
        async with self._catalog.reading() as session:
            return list(await session.scalars(query))

    async def set(self, org: str, project_id: UUID | None, values: Mapping[str, str]) -> None:
        """Set variables of an org, or of one of its projects.

        Raises:
            InvalidInput: a name that no shell knows, a value that is too long, too many of them.
        """
        checked(values)
        if len(await self.read_list(org)) + len(values) > _MOST:
            raise InvalidInput(f"secrets: an org may have {_MOST}.", hint="Unset some that nobody needs.")
        # why: each takes tens of milliseconds, in which nobody else would be answered
        digests = await asyncio.to_thread(lambda: {name: _digest(org, name, value) for name, value in values.items()})
        async with self._catalog.writing() as session:
            for name, value in values.items():
                await session.execute(delete(OrgSecret).where(_is(org, project_id), OrgSecret.name == name))
                session.add(
                    OrgSecret(
                        id=uuid4(),
                        org=org,
                        project_id=project_id,
                        name=name,
                        secret=self._box.encrypt(value),
                        digest=digests[name],
                    )
                )

    async def unset(self, org: str, name: str) -> None:
        """Remove the variables of this name from an org and all its projects; NotFound when there is none."""
        wanted = (OrgSecret.org == org) & (OrgSecret.name == name)
        async with self._catalog.writing() as session:
            if await session.scalar(select(OrgSecret.id).where(wanted).limit(1)) is None:
                raise NotFound("Secret not found.")
            await session.execute(delete(OrgSecret).where(wanted))

    async def values_for(self, org: str, project_id: UUID) -> dict[str, str]:
        """Return what a command of a project gets; the project's own win over those of the org."""
        query = select(OrgSecret).where(
            OrgSecret.org == org, or_(OrgSecret.project_id.is_(None), OrgSecret.project_id == project_id)
        )
        async with self._catalog.reading() as session:
            found = list(await session.scalars(query))
        found.sort(key=lambda secret: secret.project_id is not None)
        return {secret.name: self._box.decrypt(secret.secret) for secret in found}


def checked(values: Mapping[str, str]) -> None:
    """Raise for what cannot be an environment variable."""
    for name, value in values.items():
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name[:100]!r} cannot be the name of a variable.", hint="Use letters, digits and _.")
        if name.startswith(_TAKEN):
            raise InvalidInput(f"{name[:100]}: names that begin so are taken.", hint="Choose another name.")
        if len(value.encode(errors="replace")) > _VALUE_MAX or "\0" in value:
            raise InvalidInput(f"{name}: its value has more than {_VALUE_MAX} bytes, or a zero byte.")


def _is(org: str, project_id: UUID | None) -> ColumnElement[bool]:
    return (OrgSecret.org == org) & (
        OrgSecret.project_id.is_(None) if project_id is None else OrgSecret.project_id == project_id
    )


def _digest(org: str, name: str, value: str) -> str:
    """Return what tells two values of a variable apart: slow to compute, so that short ones cannot be guessed fast."""
    return hashlib.scrypt(value.encode(), salt=f"{org}/{name}".encode(), n=2**14, r=8, p=1, dklen=32).hex()

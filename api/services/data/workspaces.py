"""Workspaces: places in clouds that an org has named, and what opens them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks.clouds import Access, CloudType
from ....blocks.reach import Outbound
from ....schemas.errors import InUse, InvalidInput, NotFound
from ...catalog import Catalog
from ...catalog.clouds import Pull, Workspace
from ...catalog.models import Experiment, utc_now
from ..accounts.idempotency import new_id
from ..accounts.secrets import SecretBox
from ..paging import Match, Page, conditions, read_page
from .pull_states import UNFINISHED
from .sources import parse_access

_COLUMNS = {"name": Workspace.name, "cloud_type": Workspace.cloud_type, "version": Workspace.version}


class WorkspaceService:
    def __init__(self, catalog: Catalog, box: SecretBox, outbound: Outbound) -> None:
        self._catalog = catalog
        self._box = box
        self._outbound = outbound

    async def create(
        self, org: str, user_id: UUID, *, cloud_type: CloudType, details: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Workspace:
        """Add a workspace. `values` are name, description and version, as far as they are given.

        Raises:
            InvalidInput: what opens the cloud is not complete, or leads where nothing may be fetched from.
            NotAvailable: this yard lacks the driver.
        """
        access = parse_access(cloud_type, details)
        await asyncio.to_thread(access.check, self._outbound)
        row = Workspace(
            id=new_id("workspace"),
            org=org,
            user_id=user_id,
            cloud_type=cloud_type,
            **{"name": "My Workspace", "description": "", "version": "1.0.0", **values},
        )
        self._write(row, access)
        async with self._catalog.writing() as session:
            if (made := await session.get(Workspace, row.id)) is not None:  # by an earlier try
                return made
            session.add(row)
        return row

    async def read(self, org: str, workspace_id: UUID) -> Workspace:
        async with self._catalog.reading() as session:
            return await read_workspace(session, org, workspace_id)

    async def read_list(self, org: str, matches: Sequence[Match], page: Page) -> tuple[list[Workspace], int]:
        """Return a page of the workspaces of an org and how many there are in all."""
        query = select(Workspace).where(Workspace.org == org, *conditions(_COLUMNS, matches))
        async with self._catalog.reading() as session:
            return await read_page(session, query, Workspace, page)

    async def update(
        self, org: str, workspace_id: UUID, *, details: Mapping[str, Any] | None, values: Mapping[str, Any]
    ) -> Workspace:
        """Change what is given; `details` are merged with those there are, keys too."""
        async with self._catalog.reading() as session:
            row = await read_workspace(session, org, workspace_id)
        access = None
        if details is not None:
            access = parse_access(_cloud_type(row), {**row.details, **self._secret(row), **details})
            await asyncio.to_thread(access.check, self._outbound)
        if values.get("cloud_type", row.cloud_type) != row.cloud_type:
            raise InvalidInput("cloud_type: the cloud of a workspace cannot change.", hint="Create another workspace.")
        async with self._catalog.writing() as session:
            row = await read_workspace(session, org, workspace_id, lock=True)
            for name, value in values.items():
                setattr(row, name, value)
            if access is not None:
                self._write(row, access)
            row.updated_at = utc_now()
            return row

    async def delete(self, org: str, workspace_id: UUID) -> Workspace:
        """Delete a workspace; data sets that came from it stay.

        Raises:
            InUse: an experiment names it, or data are being fetched from it.
        """
        async with self._catalog.writing() as session:
            row = await read_workspace(session, org, workspace_id, lock=True)
            named = Experiment.labels["workspace"].as_string() == str(workspace_id)
            experiment = await session.scalar(select(Experiment.id).where(Experiment.org == org, named).limit(1))
            if experiment is not None:
                raise InUse(f"Workspace in use by the experiment {experiment}.", hint="Give it another one first.")
            fetching = (Pull.workspace_id == workspace_id) & Pull.state.in_(UNFINISHED)
            dataset = await session.scalar(select(Pull.dataset_id).where(fetching).limit(1))
            if dataset is not None:
                raise InUse(f"The data set {dataset} is being fetched from it.", hint="Wait for its end.")
            await session.delete(row)
            return row

    def access(self, row: Workspace) -> Access:
        """Return what opens the workspace."""
        return parse_access(_cloud_type(row), {**row.details, **self._secret(row)})

    def _secret(self, row: Workspace) -> dict[str, Any]:
        return dict(json.loads(self._box.decrypt(row.secret))) if row.secret is not None else {}

    def _write(self, row: Workspace, access: Access) -> None:
        row.details = access.public()
        secret = access.secret()
        row.secret = self._box.encrypt(json.dumps(secret)) if secret else None


async def read_workspace(session: AsyncSession, org: str, workspace_id: UUID, *, lock: bool = False) -> Workspace:
    query = select(Workspace).where(Workspace.id == workspace_id, Workspace.org == org)
    found = await session.scalar(query.with_for_update() if lock else query)
    if found is None:
        raise NotFound("Workspace not found.")
    return found


def _cloud_type(row: Workspace) -> CloudType:
    return row.cloud_type  # type: ignore[return-value] # only such words are written

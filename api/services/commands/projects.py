"""Projects of an org. Every org has one from the start, so that nobody has to make one first."""

from __future__ import annotations

from uuid import uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ....schemas.errors import Conflict, InvalidInput, NotFound
from ...catalog import Catalog
from ...catalog.commands import Project
from ..accounts.idempotency import new_id
from ..paging import Page, read_page
from .rids import read_id

DEFAULT = "default"
_NAME_MAX = 500


class ProjectService:
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def read_list(self, org: str, page: Page) -> tuple[list[Project], int]:
        """Return a page of the projects of an org, and the total."""
        await self._default(org)
        async with self._catalog.reading() as session:
            return await read_page(session, select(Project).where(Project.org == org), Project, page)

    async def create(self, org: str, name: str) -> Project:
        """Return a new project.

        Raises:
            InvalidInput: no name, or one that a terminal would not show as it is.
            Conflict: the org has a project of that name.
        """
        if not name.strip() or len(name) > _NAME_MAX or not name.isprintable():
            raise InvalidInput(f"name: it is not 1 to {_NAME_MAX} printable characters.")
        project = Project(id=new_id("project"), org=org, name=name)
        try:
            async with self._catalog.writing() as session:
                session.add(project)
        except IntegrityError as error:
            async with self._catalog.reading() as session:
                if (made := await session.get(Project, project.id)) is not None and made.name == name:
                    return made  # by an earlier try of the same request
            raise Conflict(
                f"name: the org has a project {name!r} already.", hint="Use it, or take a new name."
            ) from error
        return project

    async def find(self, org: str, said: str | None) -> Project:
        """Return the project that an id, a rid or a name stands for; without any, that of the beginning.

        Raises:
            NotFound: the org has no such project.
        """
        if not said or said == DEFAULT:
            return await self._default(org)
        async with self._catalog.reading() as session:
            return await find_project(session, org, said)

    async def _default(self, org: str) -> Project:
        query = select(Project).where(Project.org == org, Project.name == DEFAULT)
        async with self._catalog.reading() as session:
            if (found := await session.scalar(query)) is not None:
                return found
        try:
            async with self._catalog.writing() as session:
                session.add(project := Project(id=uuid4(), org=org, name=DEFAULT))
            return project
        except IntegrityError:  # another request was faster
            async with self._catalog.reading() as session:
                return (await session.scalars(query)).one()


async def find_project(session: AsyncSession, org: str, said: str) -> Project:
    """Return the project of an org that an id, a rid or a name stands for; NotFound when there is none."""
    id = read_id(said)
    which = Project.id == id if id is not None else Project.name == said
    found = await session.scalar(select(Project).where(Project.org == org, which))
    if found is None:
        raise NotFound("Project not found.", hint="GET /api/v1/projects/ lists those there are.")
    return found

"""Open the catalog's database and bring it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from .models import Base

T = TypeVar("T")

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Catalog:
    """The database. `reading()` and `writing()` give a session that is one transaction."""

    def __init__(self, url: str) -> None:
        self.engine = _create_engine(url)
        writer = self.engine.execution_options(trainyard_write=True)
        self._readers = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writers = async_sessionmaker(writer, expire_on_commit=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        async with self._readers() as session, session.begin():
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """Give a session that is committed at the end of the block, rolled back on an error."""
        async with self._writers() as session, session.begin():
            yield session

    async def upgrade(self) -> None:
        """Run the migrations that the database lacks."""
        async with self.engine.execution_options(trainyard_write=True).connect() as connection:
            await connection.run_sync(_run_migrations)
            await connection.commit()

    async def close(self) -> None:
        await self.engine.dispose()


def upgrade(url: str) -> None:
    """Create the database at `url` or bring it up to date; not to be called in an event loop."""

    with_catalog(url, Catalog.upgrade)


def with_catalog(url: str, work: Callable[[Catalog], Awaitable[T]]) -> T:
    """Open the catalog at `url` for one piece of work; not to be called in an event loop."""

    async def run() -> T:
        catalog = Catalog(url)
        try:
            return await work(catalog)
        finally:
            await catalog.close()

    return asyncio.run(run())


def _create_engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    parsed = parsed.set(drivername=_ASYNC_DRIVERS.get(backend, parsed.drivername))
    if backend != "sqlite":
        return create_async_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(parsed, connect_args={"timeout": 30})

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: object) -> None:
        # why: the driver's own transactions start late and end in SQLITE_BUSY; `begin` below starts ours
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("trainyard_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _run_migrations(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["metadata"] = Base.metadata
    command.upgrade(config, "head")

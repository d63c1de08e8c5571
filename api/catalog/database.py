"""Open the catalog's database and bring it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from pydantic_core import from_json
from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from . import inline_sqlite
from .models import Base

T = TypeVar("T")

_ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}


class Catalog:
    """The database. `reading()` and `writing()` give a session that is one transaction."""

    def __init__(self, url: str) -> None:
        self.engine, self._reader = _create_engines(url)
        writer = self.engine.execution_options(trainyard_write=True)
        self._readers = async_sessionmaker(self._reader, expire_on_commit=False)
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
        await self._reader.dispose()
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


def _create_engines(url: str) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the engine, and the one to read by."""
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend != "sqlite":
        engine = create_async_engine(
            parsed.set(drivername=_ASYNC_DRIVERS.get(backend, parsed.drivername)), pool_pre_ping=True
        )
        return engine, engine
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        parsed.set(drivername=_ASYNC_DRIVERS[backend]), connect_args={"timeout": 30}, json_deserializer=from_json
    )
    reader = create_async_engine(parsed.set(drivername=inline_sqlite.NAME), json_deserializer=from_json)
    _configure(engine, "busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
    # why: a write here would wait for others with everybody else waiting for it
    _configure(reader, "busy_timeout=1000", "query_only=ON")
    return engine, reader


def _configure(engine: AsyncEngine, *pragmas: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, record: object) -> None:
        # why: the driver's own transactions start late and end in SQLITE_BUSY; `begin` below starts ours
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("trainyard_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _run_migrations(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    config.attributes["metadata"] = Base.metadata
    command.upgrade(config, "head")

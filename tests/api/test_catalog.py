"""The catalog: migrations, and many writers at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import uuid4

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from prefect_trainyard.api.catalog import Catalog, upgrade
from prefect_trainyard.api.catalog.models import Base, Dataset, Org, User
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError, OperationalError


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/catalog.db"


def test_migrations_make_exactly_the_tables_of_the_models(url: str) -> None:
    upgrade(url)
    upgrade(url)

    async def differences() -> object:
        catalog = Catalog(url)
        async with catalog.engine.connect() as connection:
            found = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), Base.metadata))
        await catalog.close()
        return found

    assert asyncio.run(differences()) == []


def test_writers_of_several_connections_never_lose_a_row(url: str) -> None:
    async def run() -> int | None:
        catalogs = [Catalog(url) for _ in range(3)]
        await catalogs[0].upgrade()

        async def write(catalog: Catalog, number: int) -> None:
            async with catalog.writing() as session:
                # a read before the write is what makes deferred transactions fail
                await session.scalar(select(func.count(Org.name)))
                session.add(Org(name=f"org{number}"))

        await asyncio.gather(*(write(catalogs[n % 3], n) for n in range(60)))
        async with catalogs[0].reading() as session:
            count = await session.scalar(select(func.count(Org.name)))
        for catalog in catalogs:
            await catalog.close()
        return count

    assert asyncio.run(run()) == 60


def test_foreign_keys_are_enforced_and_errors_roll_back(url: str) -> None:
    async def run() -> int | None:
        catalog = Catalog(url)
        await catalog.upgrade()
        with pytest.raises(IntegrityError):
            async with catalog.writing() as session:
                session.add(User(id=uuid4(), name="ann"))
                await session.flush()
                session.add(
                    Dataset(
                        id=uuid4(),
                        org="none",
                        user_id=uuid4(),
                        name="",
                        description="",
                        version="",
                        type="",
                        format="",
                        status="",
                        labels={},
                    )
                )
        async with catalog.reading() as session:
            count = await session.scalar(select(func.count(User.id)))
        await catalog.close()
        return count

    assert asyncio.run(run()) == 0


def test_who_reads_cannot_write_and_waits_for_no_writer(tmp_path: Path) -> None:
    async def run() -> tuple[int | None, int | None]:
        catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
        await catalog.upgrade()
        count = select(func.count(User.id))
        with pytest.raises(OperationalError, match="readonly"):
            async with catalog.reading() as session:
                session.add(User(id=uuid4(), name="ann"))
        async with catalog.writing() as session:
            session.add(User(id=uuid4(), name="ann"))
            await session.flush()
            async with catalog.reading() as reader:
                before = await reader.scalar(count)
        async with catalog.reading() as reader:
            after = await reader.scalar(count)
        await catalog.close()
        return before, after

    assert asyncio.run(run()) == (0, 1)


@pytest.mark.skipif("TRAINYARD_TEST_POSTGRES_URL" not in os.environ, reason="needs a PostgreSQL server")
def test_migrations_run_on_postgresql() -> None:
    test_migrations_make_exactly_the_tables_of_the_models(os.environ["TRAINYARD_TEST_POSTGRES_URL"])

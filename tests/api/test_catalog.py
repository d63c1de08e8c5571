"""The catalog: migrations, and many writers at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from prefect_trainyard.api.catalog import Catalog, migrations, upgrade
from prefect_trainyard.api.catalog.models import Base, Dataset, Job, Org, User, utc_now
from sqlalchemy import Connection, func, inspect, select
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


def test_a_migration_back_and_forth_keeps_the_jobs(url: str) -> None:
    job_id = uuid4()

    def migrate(connection: Connection, to: str, way: Callable[[Config, str], None]) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes |= {"connection": connection, "metadata": Base.metadata}
        way(config, to)

    async def run() -> tuple[list[str], dict[str, object] | None]:
        catalog = Catalog(url)
        await catalog.upgrade()
        async with catalog.writing() as session:
            session.add(Org(name="org"))
            await session.flush()
            empty = {"name": "", "description": "", "spec": {}, "dataset_ids": [], "message": "", "fraction": 0.0}
            states = {"state": "running", "state_at": utc_now(), "history": [], "sweep": {"best": 0.5}}
            session.add(Job(id=job_id, org="org", action="train", **empty, **states))
        async with catalog.engine.execution_options(trainyard_write=True).connect() as connection:
            await connection.run_sync(migrate, "0006", command.downgrade)
            columns = await connection.run_sync(lambda c: [column["name"] for column in inspect(c).get_columns("jobs")])
            await connection.run_sync(migrate, "head", command.upgrade)
            await connection.commit()
        async with catalog.reading() as session:
            job = await session.get_one(Job, job_id)
        await catalog.close()
        return columns, job.sweep

    columns, sweep = asyncio.run(run())
    assert "bundle_id" in columns and "sweep" not in columns
    assert sweep is None


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

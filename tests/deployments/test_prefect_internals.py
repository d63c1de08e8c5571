from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import prefect
import sqlalchemy as sa
from prefect import flow_engine
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect_trainyard.deployments import prefect_internals
from prefect_trainyard.deployments.prefect_internals import serialise_sqlite_writers


def test_every_private_name_is_still_there() -> None:
    assert prefect.__version__.startswith("3.8."), "check every function of prefect_internals.py, then change this"
    assert all(thing is not None for thing in prefect_internals.contract())


def test_concurrent_writers_that_read_first_all_succeed(tmp_path: Path) -> None:
    """Read, then write, 32 at a time: the stock configuration fails most of these as locked."""
    serialise_sqlite_writers()
    serialise_sqlite_writers()
    database = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{tmp_path}/test.db")

    async def add_one() -> None:
        session = await database.session(await database.engine())
        async with session, database.begin_transaction(session):
            value = (await session.execute(sa.text("SELECT value FROM counter"))).scalar_one()
            await asyncio.sleep(0)
            await session.execute(sa.text("UPDATE counter SET value = :value"), {"value": value + 1})

    async def run() -> int:
        engine = await database.engine()
        async with engine.begin() as connection:
            await connection.execute(sa.text("CREATE TABLE counter (value INTEGER)"))
            await connection.execute(sa.text("INSERT INTO counter VALUES (0)"))
        await asyncio.gather(*(add_one() for _ in range(32)))
        async with engine.connect() as connection:
            return int((await connection.execute(sa.text("SELECT value FROM counter"))).scalar_one())

    assert asyncio.run(run()) == 32


def test_transaction_inside_a_transaction_does_not_wait_for_itself(tmp_path: Path) -> None:
    serialise_sqlite_writers()
    database = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{tmp_path}/test.db")

    async def run() -> int:
        engine = await database.engine()
        outer, inner = await database.session(engine), await database.session(engine)
        async with outer, inner, database.begin_transaction(outer), database.begin_transaction(inner):
            return int((await inner.execute(sa.text("SELECT 1"))).scalar_one())

    assert asyncio.run(asyncio.wait_for(run(), 5)) == 1


def test_the_heartbeats_of_a_run_can_be_left_behind() -> None:
    """Without the parameter every run would end with an error, and without its effect a second too late."""
    parameter = inspect.signature(flow_engine._send_heartbeats).parameters["join_on_exit"]
    assert parameter.default is True

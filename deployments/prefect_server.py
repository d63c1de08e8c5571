"""The Prefect server of a yard: one process, one SQLite writer, UI on.

State and database come from the environment (`environment.prefect_environment`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

import prefect
import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database import provide_database_interface
from prefect.settings import get_current_settings
from sqlalchemy.engine import make_url

from .environment import LOOPBACK
from .prefect_internals import serialise_sqlite_writers

#: Seconds that open requests and websockets get to end on SIGTERM.
SHUTDOWN_S = 3


def database_file() -> Path | None:
    """Return the file of the server's SQLite database, None for any other database."""
    setting = get_current_settings().server.database.connection_url
    assert setting is not None  # Prefect fills in a default
    url = make_url(setting.get_secret_value())
    if url.get_backend_name() != "sqlite" or not url.database or ":memory:" in url.database:
        return None
    return Path(url.database)


def template_file() -> Path:
    """Return where the migrated, empty database of this Prefect version is kept for new homes."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "prefect-trainyard" / f"prefect-{prefect.__version__}.db"


def prepare_database() -> None:
    """Make a new database from the template, and the template where there is none.

    113 migrations take 4-10 s, the copy 10 ms. The server migrates in any case when it starts, so
    a template that is behind is only slower.
    """
    database = database_file()
    if database is None or database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    template = template_file()
    if template.is_file():
        _copy(template, database)
        return
    asyncio.run(provide_database_interface().create_db())
    # A read-only home folder only costs the speed of the next new yard.
    with contextlib.suppress(OSError):
        template.parent.mkdir(parents=True, exist_ok=True)
        _copy(database, template)


def _copy(source: Path, destination: Path) -> None:
    """Copy a SQLite database with its write-ahead log; the destination appears whole or not at all."""
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=destination.name)
    os.close(handle)
    try:
        with (
            contextlib.closing(sqlite3.connect(source)) as old,
            contextlib.closing(sqlite3.connect(name)) as new,
        ):
            old.backup(new)
        Path(name).replace(destination)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def main(host: str = LOOPBACK, port: int = 4200) -> None:
    """Serve until SIGTERM or SIGINT."""
    serialise_sqlite_writers()
    prepare_database()
    uvicorn.run(
        create_app(final=True),
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=get_current_settings().server.api.keepalive_timeout,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=4200)
    main(**vars(parser.parse_args()))

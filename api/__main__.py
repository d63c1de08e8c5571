"""`python -m prefect_trainyard.api`: serve the facade with settings from the environment."""

from __future__ import annotations

import argparse
import sys

import uvicorn

from .app import create_app
from .services.auth import list_keys
from .settings import ApiSettings


def main() -> int:
    settings = ApiSettings()
    parser = argparse.ArgumentParser(prog="python -m prefect_trainyard.api", description=__doc__)
    parser.add_argument("--host", default=settings.host)
    parser.add_argument("--port", type=int, default=settings.port)
    arguments = parser.parse_args()
    settings = settings.model_copy(update={"host": arguments.host, "port": arguments.port})
    if not settings.loopback and all(key.revoked_at for key in list_keys(settings.database_url)):
        print(
            f"Refused to listen on {settings.host}: there is no API key yet. "
            "Make one with `trainyard keys create --org ORG --user USER`.",
            file=sys.stderr,
        )
        return 2
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

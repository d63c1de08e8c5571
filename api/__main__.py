"""`python -m prefect_trainyard.api`: serve the facade with settings from the environment."""

from __future__ import annotations

import argparse
import sys
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from .app import create_app
from .server import server_config
from .services.accounts.keys import list_keys
from .services.container import Services
from .settings import ApiSettings


def main() -> int:
    settings = ApiSettings()
    parser = argparse.ArgumentParser(prog="python -m prefect_trainyard.api", description=__doc__)
    parser.add_argument("--host", default=settings.host)
    parser.add_argument("--port", type=int, default=settings.port)
    arguments = parser.parse_args()
    settings = settings.model_copy(update={"host": arguments.host, "port": arguments.port})
    if not settings.loopback and not any(key.active for key in list_keys(settings.database_url)):
        print(
            f"Refused to listen on {settings.host}: there is no API key yet. "
            "Make one with `trainyard keys create --org ORG --user USER`.",
            file=sys.stderr,
        )
        return 2
    app = create_app(settings)
    _Server(server_config(app, host=settings.host, port=settings.port)).run()
    return 0


class _Server(uvicorn.Server):
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # why: it waits for all connections, and those of followers would stay open for as long as jobs run
        services = getattr(cast(FastAPI, self.config.app).state, "services", None)
        if isinstance(services, Services):
            services.follow.close()
        super().handle_exit(sig, frame)


if __name__ == "__main__":
    sys.exit(main())

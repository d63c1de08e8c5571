"""The FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from sqlalchemy import text
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from . import errors
from .deps import ServicesDep
from .dialects import tao_v5
from .idempotency import HEADER, IdempotentPosts
from .services.container import Services
from .settings import ApiSettings

logger = logging.getLogger(__name__)

#: Routes that need no token, besides the documentation. A test compares this with all routes of the app.
OPEN_PATHS = frozenset({"/api/v1/login", "/api/v1/health", "/api/v1/liveness", "/api/v1/readiness"})

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

IDEMPOTENCY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A random text, the same for all tries of one request: it is done once and answered alike.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}

health = APIRouter(prefix="/api/v1", tags=["HEALTH"])


@health.get("/health", summary="Say that the facade is there")
@health.get("/liveness", summary="Say that the facade is there")
async def read_liveness() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@health.get("/readiness", summary="Say whether jobs can be started now")
async def read_readiness(services: ServicesDep) -> JSONResponse:
    parts = {"catalog": await _catalog_answers(services), "prefect": await services.runs.healthy()}
    ready = all(parts.values())
    return JSONResponse({"status": "ok" if ready else "unavailable", **parts}, 200 if ready else 503)


def create_app(settings: ApiSettings | None = None) -> FastAPI:
    """Return the application; it connects to everything when it starts."""
    settings = settings or ApiSettings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = Services.build(settings)
        app.state.services = services
        await services.catalog.upgrade()
        await services.uploads.recover()
        projector = asyncio.create_task(services.projector.run(), name="projector")
        try:
            yield
        finally:
            projector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await projector
            await services.close()

    # Its documentation pages need no CDN.
    app = FastAPIOffline(
        title="prefect-trainyard",
        version=__version__,
        summary="Training jobs as Prefect flow runs.",
        lifespan=lifespan,
        root_path=settings.root_path,
        # why: the clients of the API documents send JSON without a content type
        strict_content_type=False,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.include_router(health)
    app.include_router(tao_v5.router)
    app.add_middleware(IdempotentPosts)
    app.add_middleware(_SafeHeaders)
    errors.install(app)
    _describe(app)
    return app


class _SafeHeaders:
    """Adds the headers that keep browsers from doing clever things with answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _describe(app: FastAPI) -> None:
    """Complete the served document: no 422 of FastAPI, which nothing here answers, and the header of every POST."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
            if "post" in operations:
                parameters = operations["post"].setdefault("parameters", [])
                if IDEMPOTENCY_PARAMETER not in parameters:
                    parameters.append(IDEMPOTENCY_PARAMETER)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


async def _catalog_answers(services: Services) -> bool:
    try:
        async with asyncio.timeout(2), services.catalog.reading() as session:
            await session.execute(text("SELECT 1"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the catalog does not answer
        logger.warning("The catalog does not answer: %s", error)
        return False
    return True

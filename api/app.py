"""The FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from sqlalchemy import text
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import __version__
from . import documentation, errors
from .deps import ServicesDep
from .dialects import aitems, tao_v4, tao_v5, trainwave, workspace
from .idempotency import IdempotentPosts
from .limits import PatientBodies, RefusalLimit
from .services.container import Services
from .settings import ApiSettings

logger = logging.getLogger(__name__)

#: Routes that need no token, besides the documentation. A test compares this with all routes of the app.
OPEN_PATHS = frozenset(
    {"/api/v1/login", "/api/v1/login/{ngc_api_key}", "/api/v1/health", "/api/v1/liveness", "/api/v1/readiness"}
    # A login of a command line: it begins without a key, and its page asks for one.
    | {"/api/v1/cli/create_session/", "/api/v1/cli/session_status/", "/cli/login/{session_id}"}
    # Addresses that nobody can guess are the permission themselves.
    | {"/api/v1/code/{ticket}", "/cli/config/{session_id}"}
)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

health = APIRouter(prefix="/api/v1", tags=["HEALTH"])


@health.get("/health", summary="Say that the facade is there")
@health.get("/liveness", summary="Say that the facade is there")
async def read_liveness() -> dict[str, str]:
    return {"status": "ok", "version": __version__}


@health.get(
    "/readiness",
    summary="Say whether jobs can be started now",
    responses={503: {"description": "Not now", "content": {"application/json": {"schema": {"type": "object"}}}}},
)
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
        await services.pulls.recover()
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
    # why in this order: routes are tried one after the other, and these are asked the most
    app.include_router(tao_v5.router)
    app.include_router(tao_v4.router)
    app.include_router(trainwave.router)
    app.include_router(trainwave.pages)
    app.include_router(aitems.router)
    app.include_router(workspace.router)
    app.add_middleware(IdempotentPosts)
    app.add_middleware(PatientBodies, silence_s=settings.silence_max_s)
    app.add_middleware(RefusalLimit, per_minute=settings.refusals_per_minute)
    app.add_middleware(_SafeHeaders)
    errors.install(app)
    documentation.complete(app, OPEN_PATHS, errors.MODELS)
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


async def _catalog_answers(services: Services) -> bool:
    try:
        async with asyncio.timeout(2), services.catalog.reading() as session:
            await session.execute(text("SELECT 1"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the catalog does not answer
        logger.warning("The catalog does not answer: %s", error)
        return False
    return True

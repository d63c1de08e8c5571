"""Routes of the document. They translate; services decide."""

from __future__ import annotations

from fastapi import APIRouter

from . import account, jobs, logs, sessions

router = APIRouter(prefix="/api/v1")
for _part in (jobs.router, account.router, sessions.router):
    router.include_router(_part)

#: What is not below the prefix: pages for people, and the socket.
pages = APIRouter()
pages.include_router(sessions.pages)
pages.include_router(logs.router)

"""The API document `trainwave-api`, and what its command line `wave` needs beyond it."""

from __future__ import annotations

from .router import pages, router

__all__ = ["pages", "router"]

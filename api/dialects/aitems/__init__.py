"""The API document `aitems-trains-api`: train jobs of a service, which is an experiment here."""

from __future__ import annotations

from .router import router

__all__ = ["router"]

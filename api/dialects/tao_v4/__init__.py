"""The API document `tao-toolkit-api-4.0.0`, under /user/{user_id}, with what clients up to 5.2 call beyond it."""

from __future__ import annotations

from .router import router

__all__ = ["router"]

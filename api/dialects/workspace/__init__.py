"""The API document `workspace-train-api`: bundles that are trained in workspaces, under /train."""

from __future__ import annotations

from .router import router

__all__ = ["router"]

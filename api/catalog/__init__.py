"""Orgs, users, keys, data sets, experiments and the projection of jobs, in SQL."""

from __future__ import annotations

from .database import Catalog, upgrade

__all__ = ["Catalog", "upgrade"]

"""Orgs, users, keys, data sets, experiments and the projection of jobs, in SQL."""

from __future__ import annotations

from . import bundles as bundles
from . import clouds as clouds
from . import commands as commands
from . import saved_specs as saved_specs
from . import signing as signing
from .database import Catalog, upgrade, with_catalog

__all__ = ["Catalog", "upgrade", "with_catalog"]

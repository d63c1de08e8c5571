"""Training jobs as Prefect flow runs, served over the REST APIs that training clients speak."""

from __future__ import annotations

__version__ = "0.1.0"

"""What Prefect finds of this package by itself: the worker type and the blocks.

Every Prefect process that has the package installed imports this module; it must stay light.
"""

from __future__ import annotations

from . import blocks
from .deployments.warm_worker import TrainyardWorker

__all__ = ["TrainyardWorker", "blocks"]

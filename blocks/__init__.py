"""Prefect blocks: where files lie."""

from __future__ import annotations

from .storage import ArtifactStorage, StoredFile, load_storage

__all__ = ["ArtifactStorage", "StoredFile", "load_storage"]

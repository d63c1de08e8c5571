"""What the files of a data set are."""

from __future__ import annotations

from uuid import UUID

from ....blocks import ArtifactStorage, layout
from ....datasets.manifest import RawManifest

RAW, MANIFEST = "raw", "raw.json"


def read_manifest(storage: ArtifactStorage, org: str, dataset_id: UUID) -> RawManifest:
    """Return the list of the files of a data set; NotFound while it has none."""
    return RawManifest.model_validate(storage.read_json(f"{layout.dataset(org, dataset_id)}/{MANIFEST}"))

"""What the files of a data set are."""

from __future__ import annotations

from uuid import UUID

from ....blocks import ArtifactStorage, layout
from ....datasets.formats import data_format
from ....datasets.manifest import RawManifest

RAW, MANIFEST = "raw", "raw.json"


def read_manifest(storage: ArtifactStorage, org: str, dataset_id: UUID) -> RawManifest:
    """Return the list of the files of a data set; NotFound while it has none."""
    return RawManifest.model_validate(storage.read_json(f"{layout.dataset(org, dataset_id)}/{MANIFEST}"))


def require_trainable(manifest: RawManifest) -> None:
    """Raise `DatasetError` when nothing can be learnt from a data set."""
    data_format(manifest.format, manifest.type).require_trainable(manifest)

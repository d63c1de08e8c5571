"""Bundles on their way in: checked, and stored whole or not at all."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from ....blocks import ArtifactStorage, layout
from ....datasets.bundle import BUNDLE_LIMITS, BundleFolder, open_bundle, pack
from ....datasets.disk import full_disk_as_storage_full
from ....datasets.manifest import RawFile
from ....datasets.zip_archive import extract_any
from ....schemas.bundles import BundleManifest, BundleRecord
from ....schemas.errors import StorageFull
from ...catalog import Catalog
from ..accounts.orgs import refuse_full_storage


@dataclass(frozen=True, slots=True)
class Receipt:
    """A bundle that is being received. `archive` is where its bytes go."""

    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBundle:
    """A bundle that was checked and lies in the storage."""

    manifest: BundleManifest
    code: dict[str, Any]
    data: dict[str, Any]
    size_bytes: int


class BundleIntake:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, incoming: Path, free_min_bytes: int) -> None:
        self._catalog = catalog
        self._storage = storage
        self._free_min_bytes = free_min_bytes
        # why: what a killed facade leaves there is removed when the next one starts.
        self._incoming = storage.root / ".incoming" if storage.root is not None else incoming

    @asynccontextmanager
    async def receiving(self, org: str, expected_bytes: int | None) -> AsyncIterator[Receipt]:
        """Give a place for the bytes of a bundle; whatever is there is gone after the block.

        Raises:
            StorageFull: there is no room for so many bytes.
            QuotaExceeded: the org may not keep so many bytes.
        """
        async with self._catalog.reading() as session:
            await refuse_full_storage(session, org, expected_bytes or 0)
        receipt = Receipt(self._incoming / uuid4().hex)
        try:
            await asyncio.to_thread(self._prepare, receipt.folder, expected_bytes or 0)
            yield receipt
        finally:
            await asyncio.to_thread(shutil.rmtree, receipt.folder, ignore_errors=True)

    async def store(self, org: str, workspace: str, bundle_id: UUID, receipt: Receipt) -> StoredBundle:
        """Unpack, check and store a received bundle.

        Raises:
            ArchiveError, BundleError, TooLarge, StorageFull: nothing of it is left.
        """
        return await asyncio.to_thread(self._store, org, workspace, bundle_id, receipt)

    async def forget(self, org: str, bundle_id: UUID) -> None:
        """Remove a bundle from the storage."""
        await asyncio.to_thread(self._storage.remove, layout.bundle(org, bundle_id))

    def _prepare(self, folder: Path, expected_bytes: int) -> None:
        with full_disk_as_storage_full("receive the bundle"):
            folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < expected_bytes + self._free_min_bytes:
            raise StorageFull(
                f"The bundle needs {expected_bytes} bytes; {free} are free, of which {self._free_min_bytes} stay so."
            )

    def _store(self, org: str, workspace: str, bundle_id: UUID, receipt: Receipt) -> StoredBundle:
        staged = receipt.folder / "staged"
        extract_any(receipt.archive, staged, BUNDLE_LIMITS)
        receipt.archive.unlink()
        bundle = open_bundle(staged)
        place = layout.bundle(org, bundle_id)
        record = BundleRecord(
            workspace=workspace,
            manifest=bundle.manifest,
            code_sha256=bundle.code_sha256,
            data_sha256=bundle.data_sha256,
        )
        try:
            size_bytes = self._upload(bundle, place, receipt.folder)
            # Last: a bundle with a record is complete.
            self._storage.write_json(f"{place}/{layout.BUNDLE_RECORD}", record.model_dump(mode="json"))
        except BaseException:
            self._storage.remove(place)
            raise
        return StoredBundle(
            manifest=bundle.manifest,
            code=_summary(bundle.code, bundle.code_sha256),
            data=_summary(bundle.data, bundle.data_sha256),
            size_bytes=size_bytes,
        )

    def _upload(self, bundle: BundleFolder, place: str, scratch: Path) -> int:
        size_bytes = 0
        for name, files in ((layout.BUNDLE_CODE, bundle.code), (layout.BUNDLE_DATA, bundle.data)):
            if not files:
                continue
            with full_disk_as_storage_full("store the bundle"):
                packed = scratch / name
                pack(bundle.root, files, packed)
                size_bytes += packed.stat().st_size
                self._storage.upload_file(packed, f"{place}/{name}")
                packed.unlink()
        return size_bytes


def _summary(files: Sequence[RawFile], sha256: str) -> dict[str, Any]:
    return {"files": len(files), "size_bytes": sum(file.size_bytes for file in files), "sha256": sha256}

"""Uploads: archives become files of a data set, or nothing at all is left of them."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import UUID, uuid4

from sqlalchemy import select, update

from ....blocks import ArtifactStorage, layout
from ....datasets.archive import extract_archive
from ....datasets.disk import full_disk_as_storage_full
from ....datasets.formats import data_format
from ....datasets.manifest import RawFile, RawManifest, digest_of, hash_file
from ....schemas.errors import Conflict, DatasetError, StorageFull, YardError
from ...catalog import Catalog
from ...catalog.models import Dataset, utc_now
from ..access import read_dataset
from ..accounts.orgs import refuse_full_storage
from ..jobs.settling import Settler
from .data_status import DatasetStatus
from .manifests import MANIFEST, RAW

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that is going on. `archive` is where the received bytes go."""

    org: str
    dataset_id: UUID
    type: str
    format: str
    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def staged(self) -> Path:
        """Where files lie that do not come in an archive, or no longer."""
        return self.folder / "staged"


class UploadService:
    def __init__(
        self, catalog: Catalog, storage: ArtifactStorage, settler: Settler, incoming: Path, free_min_bytes: int
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._settler = settler
        self._free_min_bytes = free_min_bytes
        # why: on the disk of a local storage a finished file becomes part of it by a rename
        self._incoming = storage.root / ".incoming" if storage.root is not None else incoming

    async def recover(self) -> None:
        """Undo what a killed facade was in the middle of."""
        await asyncio.to_thread(shutil.rmtree, self._incoming, ignore_errors=True)
        async with self._catalog.reading() as session:
            interrupted = list(await session.scalars(select(Dataset).where(Dataset.status == DatasetStatus.RECEIVING)))
        for row in interrupted:
            folder = layout.dataset(row.org, row.id)
            await asyncio.to_thread(self._drop_unlisted, folder)
            await self._release(row.org, row.id)
            logger.warning("An upload to the data set %s was interrupted; what it had brought is gone.", row.id)

    @asynccontextmanager
    async def receiving(
        self, org: str, dataset_id: UUID, expected_bytes: int | None, *, reserved: bool = False
    ) -> AsyncIterator[Upload]:
        """Hold a data set for one upload; whatever the block does not `merge` is gone after it.

        `reserved` says that the caller holds it already.

        Raises:
            Conflict: another upload to the data set is going on.
            StorageFull: there is no room for so many bytes.
            QuotaExceeded: the org may not keep so many bytes.
        """
        async with self._catalog.writing() as session:
            row = await read_dataset(session, org, dataset_id, lock=True)
            await refuse_full_storage(session, org, expected_bytes or 0)
            if row.status == DatasetStatus.RECEIVING and not reserved:
                raise Conflict(
                    "Another upload to this data set is being unpacked.", hint="Send the next piece when it is done."
                )
            row.status = DatasetStatus.RECEIVING
        upload = Upload(org, dataset_id, row.type, row.format, self._incoming / uuid4().hex)
        try:
            await asyncio.to_thread(self._prepare, upload.folder, expected_bytes or 0)
            yield upload
        finally:
            await asyncio.shield(self._finish(upload, reserved=reserved))

    async def merge(self, upload: Upload) -> RawManifest:
        """Unpack and check the received archive and add its files to the data set.

        Raises:
            ArchiveError, DatasetError, TooLarge, StorageFull: the data set is as it was.
        """
        return await asyncio.to_thread(self._merge, upload)

    async def merge_staged(self, upload: Upload) -> RawManifest:
        """As `merge`, for files in the folder `staged`."""
        return await asyncio.to_thread(self._merge_staged, upload)

    async def check_quota(self, org: str, size_bytes: int) -> None:
        """Raise `QuotaExceeded` when the org may not keep so many bytes more."""
        async with self._catalog.reading() as session:
            await refuse_full_storage(session, org, size_bytes)

    async def release(self, org: str, dataset_id: UUID) -> None:
        """Let others use the data set again, as it is now, and the jobs start that wait for it."""
        await self._release(org, dataset_id)
        try:
            await self._settler.settle_dataset(org, dataset_id)
        except YardError as error:  # the upload is over all the same, and the reconciler settles again
            logger.warning("The jobs that wait for the data set %s were not settled: %s", dataset_id, error)

    async def _finish(self, upload: Upload, *, reserved: bool) -> None:
        await asyncio.to_thread(shutil.rmtree, upload.folder, ignore_errors=True)
        if not reserved:
            await self.release(upload.org, upload.dataset_id)

    async def _release(self, org: str, dataset_id: UUID) -> None:
        manifest = await asyncio.to_thread(self._read_manifest, layout.dataset(org, dataset_id))
        values = {
            "status": DatasetStatus.READY if manifest is not None else DatasetStatus.EMPTY,
            "size_bytes": sum(file.size_bytes for file in manifest.files) if manifest is not None else 0,
            "updated_at": utc_now(),
        }
        async with self._catalog.writing() as session:
            await session.execute(update(Dataset).where(Dataset.id == dataset_id).values(**values))

    def _prepare(self, folder: Path, expected_bytes: int) -> None:
        with full_disk_as_storage_full("receive the archive"):
            folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < expected_bytes + self._free_min_bytes:
            raise StorageFull(
                f"The archive needs {expected_bytes} bytes; {free} are free, of which {self._free_min_bytes} stay so."
            )

    def _merge(self, upload: Upload) -> RawManifest:
        extract_archive(upload.archive, upload.staged)
        upload.archive.unlink()
        return self._merge_staged(upload)

    def _merge_staged(self, upload: Upload) -> RawManifest:
        staged = upload.staged
        kind = data_format(upload.format, upload.type)
        piece = kind.read_piece(staged)
        targets = {source: file.target for source, file in piece.items()}
        folder = layout.dataset(upload.org, upload.dataset_id)
        before = self._read_manifest(folder)
        files = {file.path: file for file in before.files} if before else {}
        new: dict[str, Path] = {}
        for source, placed in piece.items():
            path = str(placed.target)
            files[path] = placed.described(hash_file(staged, source))
            new[path] = staged / source
        _refuse_clashes(files)

        def read(path: str) -> bytes:
            return new[path].read_bytes() if path in new else self._storage.read_bytes(f"{folder}/{RAW}/{path}")

        ordered = [files[path] for path in sorted(files)]
        manifest = RawManifest(
            type=upload.type,
            format=upload.format,
            files=ordered,
            digest=digest_of(ordered),
            classes=kind.class_counts(files, read),
        )
        moved: dict[str, Path | None] = {}
        try:
            with full_disk_as_storage_full("store the data set"):
                for source, target in targets.items():
                    path = f"{folder}/{RAW}/{target}"
                    moved[path] = self._keep_old(path, upload.folder)
                    self._move(staged / source, path)
                self._storage.write_json(f"{folder}/{MANIFEST}", manifest.model_dump(mode="json", exclude_none=True))
        except BaseException:
            for path, old in moved.items():
                if old is not None:
                    self._move(old, path)
                else:
                    self._storage.remove(path)
            if before is None:
                self._storage.remove(folder)
            raise
        return manifest

    def _read_manifest(self, folder: str) -> RawManifest | None:
        path = f"{folder}/{MANIFEST}"
        return RawManifest.model_validate(self._storage.read_json(path)) if self._storage.exists(path) else None

    def _keep_old(self, path: str, folder: Path) -> Path | None:
        """Return a copy of the file that is about to be replaced, None where there is none."""
        if not self._storage.exists(path):
            return None
        kept = folder / f"old-{uuid4().hex}"
        local = self._storage.local_path(path)
        if local is not None:
            os.link(local, kept)
        else:
            kept.write_bytes(self._storage.read_bytes(path))
        return kept

    def _move(self, source: Path, path: str) -> None:
        local = self._storage.local_path(path)
        if local is None:
            self._storage.upload_file(source, path)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        source.replace(local)

    def _drop_unlisted(self, folder: str) -> None:
        """Delete files of a data set that its manifest does not know."""
        manifest = self._read_manifest(folder)
        if manifest is None:
            self._storage.remove(folder)
            return
        listed = {file.path for file in manifest.files}
        for file in self._storage.list_files(f"{folder}/{RAW}"):
            if file.path not in listed:
                self._storage.remove(f"{folder}/{RAW}/{file.path}")


def _refuse_clashes(files: dict[str, RawFile]) -> None:
    """Raise where one piece has a file and another a folder of the same name."""
    for path in files:
        for parent in PurePosixPath(path).parents:
            if str(parent) in files:
                raise DatasetError(
                    f"{parent} is a file in one piece of the data set and a folder in another.", hint="Rename one."
                )

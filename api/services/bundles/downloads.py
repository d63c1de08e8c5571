"""Bundles on their way out: code, data and models of a job as one zip."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO
from uuid import UUID

from ....blocks import ArtifactStorage, layout
from ....datasets.disk import full_disk_as_storage_full
from ....schemas.bundles import TrainingRecord
from ....schemas.errors import InvalidInput, NotFound
from .trainings import Training

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20


class BundleDownloads:
    def __init__(self, storage: ArtifactStorage, scratch: Path) -> None:
        self._storage = storage
        self._scratch = scratch

    async def pack(
        self, training: Training, record: TrainingRecord, *, code: bool, data: bool, model: bool
    ) -> tuple[IO[bytes], int]:
        """Return a zip with the wanted parts of a job as an open temporary file, and its size.

        Raises:
            InvalidInput: nothing is wanted.
        """
        if not (code or data or model):
            raise InvalidInput("include-code, include-data and include-model are all false.", hint="Ask for a part.")
        place = layout.bundle(training.job.org, training.bundle.id)
        parts = [
            f"{place}/{name}"
            for name, wanted, count in (
                (layout.BUNDLE_CODE, code, training.bundle.code["files"]),
                (layout.BUNDLE_DATA, data, training.bundle.data["files"]),
            )
            if wanted and count
        ]
        models = {}
        if model:
            folder = f"{layout.job(training.job.org, training.job.id)}/{layout.MODELS}"
            models = {
                f"{_model_folder(training.job.id)}/{file.path}": f"{folder}/{file.path}"
                for made in record.models
                for file in made.files
            }
        return await asyncio.to_thread(self._pack, parts, models)

    def _pack(self, parts: list[str], models: dict[str, str]) -> tuple[IO[bytes], int]:
        self._scratch.mkdir(parents=True, exist_ok=True)
        target = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the caller closes it
        try:
            with full_disk_as_storage_full("pack the bundle"):
                with zipfile.ZipFile(target, "w") as packed:
                    for part in parts:
                        with self._storage.open(part) as stream, zipfile.ZipFile(stream) as source:
                            for info in source.infolist():
                                with source.open(info) as member:
                                    _add(packed, info.filename, info.file_size, member)
                    for name, path in models.items():
                        try:
                            size_bytes = self._storage.size(path)
                        except NotFound:
                            continue  # replaced by a later one of its name just now
                        with self._storage.open(path) as stream:
                            _add(packed, name, size_bytes, stream)
                size_bytes = target.tell()
                target.seek(0)
        except BaseException:
            target.close()
            raise
        return target, size_bytes


def _add(packed: zipfile.ZipFile, name: str, size_bytes: int, content: IO[bytes]) -> None:
    info = zipfile.ZipInfo(name, _ZIP_TIME)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    info.file_size = size_bytes
    with packed.open(info, "w") as member:
        shutil.copyfileobj(content, member, _CHUNK)


def _model_folder(job_id: UUID) -> str:
    """Return where models lie in a download; no file of a bundle has a path like that."""
    return f"models/{job_id}"

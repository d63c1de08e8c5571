"""Code of commands: received at an address that is its own key, checked, kept with the job."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import select

from ....blocks import ArtifactStorage, layout
from ....datasets.archive import extract_archive
from ....datasets.disk import full_disk_as_storage_full
from ....schemas.errors import Conflict, NotFound, StorageFull
from ....tasks.run_command import CODE_LIMITS
from ...catalog import Catalog
from ...catalog.commands import CommandJob
from ...catalog.models import Job, utc_now
from ..accounts.orgs import refuse_full_storage

#: So long an address takes code after its job was made.
LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The last part of an address for code; whoever has it may send the code of one job, and nothing else."""

    text: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Code that is being received. `archive` is where its bytes go."""

    org: str
    job_id: UUID
    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"


def new_ticket() -> Ticket:
    text = secrets.token_urlsafe(32)
    return Ticket(text, _hash(text))


class CodeStore:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, incoming: Path, free_min_bytes: int) -> None:
        self._catalog = catalog
        self._storage = storage
        self._free_min_bytes = free_min_bytes
        # Emptied when the facade starts, as that of other uploads.
        self._incoming = storage.root / ".incoming" if storage.root is not None else incoming

    @asynccontextmanager
    async def receiving(self, ticket: str, expected_bytes: int | None) -> AsyncIterator[Receipt]:
        """Hold a place for the code of a job; what the block does not `keep` is gone after it.

        Raises:
            NotFound: nobody waits for code at this address, or not any more.
            Conflict: the job has its code already.
            StorageFull: there is no room for so many bytes.
            QuotaExceeded: the org may not keep so many bytes.
        """
        query = select(CommandJob, Job).join(Job, Job.id == CommandJob.job_id)
        async with self._catalog.reading() as session:
            found = (await session.execute(query.where(CommandJob.upload_sha256 == _hash(ticket)))).one_or_none()
            if found is None or utc_now() - found.Job.created_at > LIFETIME:
                raise NotFound("Nobody waits for code here.", hint="Make a new job; its upload_url is good for a day.")
            if found.CommandJob.ready_at is not None or found.Job.ended_at is not None:
                raise Conflict("The job does not wait for code any more.", hint="Make a new job.")
            await refuse_full_storage(session, found.Job.org, expected_bytes or 0)
        receipt = Receipt(found.Job.org, found.Job.id, self._incoming / uuid4().hex)
        try:
            await asyncio.to_thread(self._prepare, receipt.folder, expected_bytes or 0)
            yield receipt
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, receipt.folder, ignore_errors=True))

    async def keep(self, receipt: Receipt) -> int:
        """Check what was received and keep it as the code of its job; return its size.

        Raises:
            ArchiveError, TooLarge: it is no tar.gz that could be unpacked; nothing is kept.
            Conflict: the job has started meanwhile.
        """
        size_bytes = await asyncio.to_thread(self._check, receipt)
        path = layout.code(receipt.org, receipt.job_id)
        await asyncio.to_thread(self._storage.upload_file, receipt.archive, path)
        async with self._catalog.writing() as session:
            row = await session.get(CommandJob, receipt.job_id, with_for_update=True)
            if row is None or row.ready_at is not None:
                raise Conflict("The job does not wait for code any more.", hint="Make a new job.")
            row.code_bytes = size_bytes
        return size_bytes

    def _prepare(self, folder: Path, expected_bytes: int) -> None:
        with full_disk_as_storage_full("receive the code"):
            folder.mkdir(parents=True)
        free = shutil.disk_usage(folder).free
        if free < expected_bytes + self._free_min_bytes:
            raise StorageFull(
                f"The code needs {expected_bytes} bytes; {free} are free, of which {self._free_min_bytes} stay so."
            )

    def _check(self, receipt: Receipt) -> int:
        # Now, and not when the job runs: whoever sends it is still there to be told.
        extract_archive(receipt.archive, receipt.folder / "checked", CODE_LIMITS)
        return receipt.archive.stat().st_size


def _hash(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()

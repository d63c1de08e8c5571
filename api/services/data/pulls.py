"""Pulls: the files of a data set are fetched from an address or a cloud, and then treated as an upload."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks.clouds import Place, RemoteFile, checked_path
from ....blocks.reach import Outbound
from ....datasets.archive import extract_archive, is_archive_name
from ....datasets.disk import full_disk_as_storage_full
from ....schemas.errors import ArchiveError, Conflict, StorageFull, TooLarge, Unavailable, YardError
from ...catalog import Catalog
from ...catalog.clouds import Pull
from ...catalog.models import Dataset, utc_now
from ..accounts.secrets import SecretBox
from .data_status import DatasetStatus
from .pull_states import UNFINISHED, PullState
from .sources import Source, read_source, write_source
from .uploads import Upload, UploadService
from .workspaces import WorkspaceService, read_workspace

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: So many pulls fetch at a time; others wait.
_AT_ONCE = 4
_FILES_MAX = 200_000
_TIMEOUT_S = 60.0
#: Waits before another try when the other side does not answer.
_PAUSES_S = (2.0, 8.0)
#: The room on the disk is looked at after so many bytes.
_LOOK_BYTES = 64 << 20


class PullService:
    def __init__(
        self,
        catalog: Catalog,
        uploads: UploadService,
        workspaces: WorkspaceService,
        box: SecretBox,
        outbound: Outbound,
        max_bytes: int,
        free_min_bytes: int,
    ) -> None:
        self._catalog = catalog
        self._uploads = uploads
        self._workspaces = workspaces
        self._box = box
        self._outbound = outbound
        self._max_bytes = max_bytes
        self._free_min_bytes = free_min_bytes
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[UUID, asyncio.Task[None]] = {}

    async def check(self, org: str, source: Source) -> None:
        """Raise what is wrong with a source as far as can be told without asking it.

        Raises:
            NotFound: no such workspace.
            InvalidInput: an address that may not be used from here, keys that are not complete, no path in that cloud.
            NotAvailable: this yard lacks the driver.
        """
        path = checked_path(source.path)
        if source.url is not None:
            await asyncio.to_thread(self._outbound.check, source.url)
        elif source.cloud_type is not None:
            access = source.access()
            access.root(path)  # raises where nothing can be at such a path
            await asyncio.to_thread(access.check, self._outbound)
        else:
            assert source.workspace_id is not None
            await self._workspaces.read(org, source.workspace_id)

    async def book(self, session: AsyncSession, row: Dataset, source: Source) -> bool:
        """Write down that a data set is to be fetched; False when it was already, from the very same source.

        Jobs wait for the data set from here on. `launch` it when the transaction has ended.

        Raises:
            Conflict: an upload or a pull is going on.
        """
        pull = await session.get(Pull, row.id)
        if pull is not None and pull.state != PullState.FAILED and read_source(pull, self._box) == source.in_full:
            return False
        if row.status == DatasetStatus.RECEIVING:
            raise Conflict("The files of this data set are being received.", hint="Wait for the end of it.")
        if source.workspace_id is not None:
            await read_workspace(session, row.org, source.workspace_id)
        if pull is None:
            pull = Pull(dataset_id=row.id)
            session.add(pull)
        write_source(pull, source, self._box)
        pull.state, pull.message, pull.updated_at = PullState.WAITING, "", utc_now()
        row.status = DatasetStatus.RECEIVING
        return True

    def launch(self, org: str, dataset_id: UUID) -> None:
        """Fetch a data set that is booked."""
        task = asyncio.create_task(self._see_through(org, dataset_id), name=f"pull {dataset_id}")
        self._tasks[dataset_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(dataset_id, None))

    async def stop(self, org: str, dataset_id: UUID) -> None:
        """End a pull, if there is one; what it has brought is gone."""
        if (task := self._tasks.get(dataset_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._mark(dataset_id, PullState.FAILED, "Stopped by the user.")
            await self._uploads.release(org, dataset_id)

    async def recover(self) -> None:
        """Fetch again what a facade that ended was fetching."""
        async with self._catalog.writing() as session:
            query = select(Pull.dataset_id, Dataset.org).join(Dataset, Dataset.id == Pull.dataset_id)
            unfinished = list(await session.execute(query.where(Pull.state.in_(UNFINISHED))))
            for dataset_id, _ in unfinished:
                receiving = update(Dataset).where(Dataset.id == dataset_id).values(status=DatasetStatus.RECEIVING)
                await session.execute(receiving)
        for dataset_id, org in unfinished:
            self.launch(org, dataset_id)

    async def close(self) -> None:
        """Stop all pulls; `recover` starts them again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _see_through(self, org: str, dataset_id: UUID) -> None:
        try:
            async with self._slots:
                await self._mark(dataset_id, PullState.RUNNING)
                await self._pull_patiently(org, dataset_id)
        except YardError as error:
            await self._mark(dataset_id, PullState.FAILED, str(error))
        except Exception:
            # The data set must not stay as if something came: its jobs wait for it.
            logger.exception("The data set %s could not be fetched.", dataset_id)
            await self._mark(dataset_id, PullState.FAILED, "Something went wrong; the log of the facade says more.")
        else:
            await self._mark(dataset_id, PullState.DONE)
        # not after a cancellation: the pull goes on when the facade starts again, and its jobs wait for that
        await self._uploads.release(org, dataset_id)

    async def _pull_patiently(self, org: str, dataset_id: UUID) -> None:
        for pause_s in (*_PAUSES_S, None):
            try:
                await self._pull(org, dataset_id)
                return
            except Unavailable as error:
                if pause_s is None:
                    raise
                logger.info("The data set %s is fetched again in %g s: %s", dataset_id, pause_s, error.message)
                await asyncio.sleep(pause_s)

    async def _pull(self, org: str, dataset_id: UUID) -> None:
        async with self._catalog.reading() as session:
            pull = await session.get_one(Pull, dataset_id)
            source = read_source(pull, self._box)
            workspace = await read_workspace(session, org, source.workspace_id) if source.workspace_id else None
        stop = threading.Event()
        if source.url is not None:
            url = source.url
            async with self._uploads.receiving(org, dataset_id, None, reserved=True) as upload:
                await _in_thread(stop, lambda: self._fetch_url(url, upload, stop))
                await self._uploads.check_quota(org, upload.archive.stat().st_size)
                await _to_its_end(self._uploads.merge(upload))
            return
        access = self._workspaces.access(workspace) if workspace is not None else source.access()

        def look() -> tuple[Place, list[RemoteFile], bool]:
            place = Place(access, checked_path(source.path), self._outbound)
            files, is_folder = place.files(_FILES_MAX)
            return place, files, is_folder

        place, files, is_folder = await _in_thread(stop, look)
        if is_folder and source.file_type == "file":
            raise ArchiveError("cloud_details.cloud_file_type: it is a folder and no file.", hint="Say folder.")
        total = sum(file.size_bytes for file in files)
        if total > self._max_bytes:
            raise TooLarge(f"The data set has {total} bytes; {self._max_bytes} may be fetched.", hint="Split it.")
        async with self._uploads.receiving(org, dataset_id, total, reserved=True) as upload:
            await _in_thread(stop, lambda: self._fetch_files(place, files, upload, stop))
            await _to_its_end(self._uploads.merge_staged(upload))

    def _fetch_url(self, url: str, upload: Upload, stop: threading.Event) -> None:
        arrived = self._watch(upload.folder, stop)
        with full_disk_as_storage_full("receive the archive"), upload.archive.open("wb") as file:
            for chunk in self._outbound.open(url, max_bytes=self._max_bytes, timeout_s=_TIMEOUT_S):
                arrived(len(chunk))
                file.write(chunk)

    def _fetch_files(self, place: Place, files: list[RemoteFile], upload: Upload, stop: threading.Event) -> None:
        """Bring plain files and what the archives hold into one folder."""
        archives = [file for file in files if is_archive_name(file.name)]
        plain = [(file, upload.staged / file.name) for file in files if not is_archive_name(file.name)]
        arrived = self._watch(upload.folder, stop)
        with full_disk_as_storage_full("receive the data set"):
            place.fetch(plain, arrived)
            for number, file in enumerate(archives):
                place.fetch([(file, upload.archive)], arrived)
                unpacked = upload.folder / f"unpacked-{number}"
                extract_archive(upload.archive, unpacked)
                upload.archive.unlink()
                _move_all(unpacked, upload.staged, file.name)

    def _watch(self, folder: Path, stop: threading.Event) -> Callable[[int], None]:
        """Return what hears of every byte: it ends a pull that was stopped, is too large or fills the disk."""
        came, looked_at = 0, 0

        def arrived(count: int) -> None:
            nonlocal came, looked_at
            if stop.is_set():
                raise Unavailable("The pull was stopped.")
            came += count
            if came > self._max_bytes:
                raise TooLarge(f"More than {self._max_bytes} bytes came.", hint="Split the data set.")
            if came - looked_at >= _LOOK_BYTES:
                looked_at = came
                if shutil.disk_usage(folder).free < self._free_min_bytes:
                    raise StorageFull("The disk of the storage is nearly full.")

        return arrived

    async def _mark(self, dataset_id: UUID, state: PullState, message: str = "") -> None:
        values = {"state": state, "message": message[:1000], "updated_at": utc_now()}
        async with self._catalog.writing() as session:
            await session.execute(update(Pull).where(Pull.dataset_id == dataset_id).values(**values))


async def read_pulls(session: AsyncSession, dataset_ids: list[UUID]) -> dict[UUID, Pull]:
    """Return how the fetching of data sets went; those that were uploaded are not in it."""
    pulls = await session.scalars(select(Pull).where(Pull.dataset_id.in_(dataset_ids)))
    return {pull.dataset_id: pull for pull in pulls}


def _move_all(folder: Path, into: Path, archive: str) -> None:
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = into / file.relative_to(folder)
        if target.exists():
            raise ArchiveError(f"{target.relative_to(into)} of {archive[:200]!r} is there already, in another archive.")
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)


async def _in_thread(stop: threading.Event, call: Callable[[], T]) -> T:
    """Return what `call` returns in a thread of its own; a cancellation asks it to stop and waits for it.

    The thread is a daemon: one that hangs at the other side must not keep the facade from ending.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to whoever waits
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    def tell(how: Callable[[Any], None], what: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if done.done() else how(what))

    threading.Thread(target=run, name="pull", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([done], timeout=_TIMEOUT_S)
        raise


async def _to_its_end(work: Coroutine[Any, Any, Any]) -> None:
    """Wait for `work`; a cancellation waits for its end, too: a thread is busy with the files."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

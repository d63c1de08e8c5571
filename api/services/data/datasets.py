"""Data sets: what is known of them. `uploads` fills them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import layout
from ....schemas.errors import Conflict, InUse, InvalidInput
from ...catalog import Catalog
from ...catalog.clouds import Pull
from ...catalog.models import Dataset, ExperimentDataset, Job, Purge, utc_now
from ..access import read_dataset
from ..accounts.idempotency import new_id
from ..experiments.specs import format_names
from ..jobs.job_states import LIVE
from ..jobs.jobs_query import newest_jobs
from ..jobs.reasons import JobView, Reasons
from ..jobs.variables import VariableBook
from ..paging import Match, Page, conditions, read_page
from ..upkeep.cleanup import CleanUp, purge_of
from .data_status import DatasetStatus
from .pulls import PullService, read_pulls
from .sources import Source

_COLUMNS = {"name": Dataset.name, "type": Dataset.type, "format": Dataset.format, "version": Dataset.version}


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A data set and its newest jobs."""

    row: Dataset
    jobs: list[JobView]
    pull: Pull | None = None
    """Where its files are fetched from, when they are not uploaded."""
    variables: tuple[str, ...] = ()
    """Names of the environment variables of its jobs."""


class DatasetService:
    def __init__(
        self, catalog: Catalog, cleanup: CleanUp, reasons: Reasons, pulls: PullService, variables: VariableBook
    ) -> None:
        self._catalog = catalog
        self._cleanup = cleanup
        self._reasons = reasons
        self._pulls = pulls
        self._variables = variables

    async def create(
        self,
        org: str,
        user_id: UUID,
        *,
        type: str,
        format: str,
        values: Mapping[str, Any],
        labels: Mapping[str, Any],
        source: Source | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> DatasetView:
        """Add a data set. `values` are name, description and version, as far as they are given.

        It is empty, or its files are fetched from `source` from now on.

        Raises:
            InvalidInput: there are no data sets of that type or format, or nothing can be fetched from `source`.
        """
        formats = format_names(type)
        if format not in formats:
            raise InvalidInput(
                f"format: {format!r} is no format of {type}.", hint=f"Available here: {', '.join(formats)}."
            )
        if source is not None:
            await self._pulls.check(org, source)
        row = Dataset(
            id=new_id("data set"),
            org=org,
            user_id=user_id,
            type=type,
            format=format,
            status=DatasetStatus.EMPTY,
            labels=dict(labels),
            **{"name": "My Dataset", "description": "", "version": "1.0.0", **values},
        )
        async with self._catalog.writing() as session:
            if (made := await session.get(Dataset, row.id)) is not None:  # by an earlier try
                return await self._view(session, made)
            session.add(row)
            await session.flush()
            booked = source is not None and await self._pulls.book(session, row, source)
            await self._variables.write(session, org, row.id, variables)
            view = await self._view(session, row)
        if booked:
            self._pulls.launch(org, row.id)
        return view

    async def read(self, org: str, dataset_id: UUID) -> DatasetView:
        async with self._catalog.reading() as session:
            return await self._view(session, await read_dataset(session, org, dataset_id))

    async def read_list(self, org: str, matches: Sequence[Match], page: Page) -> tuple[list[DatasetView], int]:
        """Return a page of the data sets of an org and how many there are in all."""
        query = select(Dataset).where(Dataset.org == org, *conditions(_COLUMNS, matches))
        async with self._catalog.reading() as session:
            rows, total = await read_page(session, query, Dataset, page)
            return await self._views(session, rows), total

    async def update(
        self,
        org: str,
        dataset_id: UUID,
        values: Mapping[str, Any],
        labels: Mapping[str, Any],
        *,
        source: Source | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> DatasetView:
        """Change name, description, version or labels; a new `source`, or one that failed, is fetched.

        Raises:
            InvalidInput: another type or format than the data set has, or nothing can be fetched from `source`.
            Conflict: its files are being received.
        """
        if source is not None:
            await self._pulls.check(org, source)
        async with self._catalog.writing() as session:
            row = await read_dataset(session, org, dataset_id, lock=True)
            for name in ("type", "format"):
                if name in values and values[name] != getattr(row, name):
                    raise InvalidInput(
                        f"{name}: the {name} of a data set cannot change.", hint="Create another data set."
                    )
            for name, value in values.items():
                setattr(row, name, value)
            row.labels = row.labels | dict(labels)
            row.updated_at = utc_now()
            booked = source is not None and await self._pulls.book(session, row, source)
            await self._variables.write(session, org, row.id, variables)
            await session.flush()
            view = await self._view(session, row)
        if booked:
            self._pulls.launch(org, row.id)
        return view

    async def delete(self, org: str, dataset_id: UUID, *, cancel: bool = False) -> DatasetView:
        """Delete a data set with its jobs and files; `cancel` ends those that have not ended.

        Raises:
            InUse: an experiment or a job that has not ended uses it.
            Conflict: an upload is going on.
        """
        async with self._catalog.reading() as session:
            await _refuse_if_used(session, await read_dataset(session, org, dataset_id), cancel)
        await self._pulls.stop(org, dataset_id)
        async with self._catalog.writing() as session:
            row = await read_dataset(session, org, dataset_id, lock=True)
            if row.status == DatasetStatus.RECEIVING:
                raise Conflict("An upload to this data set is going on.", hint="Wait for its end and delete then.")
            await _refuse_if_used(session, row, cancel)
            view = await self._view(session, row)
            jobs = list(await session.scalars(select(Job).where(Job.dataset_id == dataset_id)))
            for job in jobs:
                session.add(purge_of(job))
                await session.delete(job)
            session.add(Purge(id=uuid4(), paths=[layout.dataset(org, dataset_id)]))
            await self._variables.forget(session, row.id)
            await session.flush()
            await session.delete(row)
            try:
                await session.flush()
            except IntegrityError as error:
                raise InUse("Dataset in use.") from error
        await self._cleanup.stop(jobs, "The data set was deleted.")
        await self._cleanup.purge()
        return view

    async def _view(self, session: AsyncSession, row: Dataset) -> DatasetView:
        return (await self._views(session, [row]))[0]

    async def _views(self, session: AsyncSession, rows: Sequence[Dataset]) -> list[DatasetView]:
        ids = [row.id for row in rows]
        jobs = await newest_jobs(session, self._reasons, Job.dataset_id, ids)
        pulls = await read_pulls(session, ids)
        names = await self._variables.read_names(session, ids)
        return [DatasetView(row, jobs[row.id], pulls.get(row.id), names.get(row.id, ())) for row in rows]


async def _refuse_if_used(session: AsyncSession, row: Dataset, cancel: bool) -> None:
    experiment = await session.scalar(
        select(ExperimentDataset.experiment_id).where(ExperimentDataset.dataset_id == row.id).limit(1)
    )
    if experiment is not None:
        raise InUse(
            f"Dataset in use by the experiment {experiment}.", hint="Assign another data set to it or delete it first."
        )
    live = await session.scalars(select(Job).where(Job.org == row.org, Job.state.in_(LIVE)))
    for job in live:
        if job.dataset_id == row.id and cancel:
            continue
        if job.dataset_id == row.id or str(row.id) in job.dataset_ids:
            raise InUse(f"Dataset in use by the job {job.id}.", hint="Wait for the job or cancel it first.")

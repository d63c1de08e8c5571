"""Experiments: a network, the data sets it works on, and what to start from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....networks.registry import Network, network_name
from ....schemas.base_experiments import BaseExperiment
from ....schemas.errors import InvalidInput, NotFound
from ....schemas.jobs import Datasets
from ....schemas.states import FINAL, JobState
from ....schemas.sweeps import KPI
from ...catalog import Catalog
from ...catalog.models import Dataset, Experiment, ExperimentDataset, Job, Purge, utc_now
from ..access import read_dataset, read_experiment
from ..accounts.idempotency import new_id
from ..data.workspaces import read_workspace
from ..jobs.jobs_query import newest_jobs
from ..jobs.reasons import JobView, Reasons
from ..jobs.runs import FlowRuns
from ..jobs.stopping import CANCEL, stop_run
from ..jobs.variables import VariableBook
from ..paging import Match, Page, conditions, read_page
from ..upkeep.cleanup import CleanUp, needed, purge_of, refuse
from .base import BaseExperimentService, merge_page
from .records import ROLES, read_datasets, write_record
from .specs import find_network
from .sweeps import check_settings, merged

#: What may be filtered; `kind` and `read_only` are labels that every experiment has.
_COLUMNS: dict[str, Any] = {
    "name": Experiment.name,
    "kind": Experiment.labels["type"].as_string(),
    "read_only": Experiment.labels["read_only"].as_boolean(),
    "network": Experiment.network,
    "user_id": Experiment.user_id,
    "version": Experiment.version,
}


@dataclass(frozen=True, slots=True)
class ExperimentView:
    """An experiment with everything that is shown of it."""

    row: Experiment
    datasets: Datasets
    network: Network
    jobs: list[JobView]
    variables: tuple[str, ...] = ()
    """Names of the environment variables of its jobs."""


class ExperimentService:
    def __init__(
        self,
        catalog: Catalog,
        storage: ArtifactStorage,
        runs: FlowRuns,
        cleanup: CleanUp,
        reasons: Reasons,
        base: BaseExperimentService,
        variables: VariableBook,
    ) -> None:
        self._catalog = catalog
        self._storage = storage
        self._runs = runs
        self._cleanup = cleanup
        self._reasons = reasons
        self._base = base
        self._variables = variables

    async def create(
        self,
        org: str,
        user_id: UUID,
        network: str,
        *,
        values: Mapping[str, Any],
        labels: Mapping[str, Any],
        datasets: Mapping[str, Sequence[UUID]],
        variables: Mapping[str, str] | None = None,
    ) -> ExperimentView:
        """Add an experiment. `values` are columns, `datasets` the ids by role.

        Raises:
            InvalidInput: a network, data set, metric or base experiment that is not there or does not fit, or
                settings of a search that cannot be.
        """
        record = find_network(network)
        row = Experiment(
            id=new_id("experiment"),
            org=org,
            user_id=user_id,
            network=record.name,
            labels={"type": "vision", "read_only": False, **labels},
            **{
                "name": "My Experiment",
                "description": "",
                "version": "1.0.0",
                "metric": record.key_metric,
                "checkpoint": "best_model",
                "checkpoint_epochs": {},
                "base_experiment_ids": [],
                **values,
                "sweep": merged({}, values.get("sweep", {})),
            },
        )
        await self._check(record, values)
        await asyncio.to_thread(check_settings, record, row.sweep, row.metric)
        async with self._catalog.writing() as session:
            if (made := await session.get(Experiment, row.id)) is not None:  # by an earlier try
                return await self._view(session, made)
            session.add(row)
            await session.flush()
            await _check_workspace(session, org, labels)
            await self._assign(session, row, record, datasets)
            await self._variables.write(session, org, row.id, variables)
            await write_record(session, self._storage, row)
            return await self._view(session, row)

    async def read(self, org: str, experiment_id: UUID) -> ExperimentView:
        async with self._catalog.reading() as session:
            return await self._view(session, await read_experiment(session, org, experiment_id))

    async def read_list(self, org: str, matches: Sequence[Match], page: Page) -> tuple[list[ExperimentView], int]:
        """Return a page of the experiments of an org and how many there are in all."""
        query = select(Experiment).where(Experiment.org == org, *conditions(_COLUMNS, matches))
        async with self._catalog.reading() as session:
            rows, total = await read_page(session, query, Experiment, page)
            return await self._views(session, rows), total

    async def read_list_with_base(
        self, org: str, matches: Sequence[Match], page: Page
    ) -> tuple[list[ExperimentView | BaseExperiment], int]:
        """As `read_list`, with the base experiments of the yard among those of the org."""
        bases = await self._base.read_list(matches, page)
        query = select(Experiment).where(Experiment.org == org, *conditions(_COLUMNS, matches))
        async with self._catalog.reading() as session:
            rows, total = await read_page(session, query, Experiment, page, lead=len(bases))
            views = await self._views(session, rows)

        def key(view: ExperimentView) -> tuple[object, str]:
            return (view.row.name if page.by_name else view.row.created_at, view.row.id.hex)

        first = max(0, page.skip - len(bases))
        return merge_page(views, first, key, bases, page), total + len(bases)

    async def update(
        self,
        org: str,
        experiment_id: UUID,
        *,
        values: Mapping[str, Any],
        labels: Mapping[str, Any],
        datasets: Mapping[str, Sequence[UUID]],
        network: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> ExperimentView:
        """Change what is given; a role in `datasets` is replaced as a whole."""
        await self._refuse_base(experiment_id)
        async with self._catalog.writing() as session:
            row = await read_experiment(session, org, experiment_id, lock=True)
            if network is not None and network_name(network) != row.network:
                raise InvalidInput(
                    "network_arch: the network of an experiment cannot change.", hint="Create another experiment."
                )
            record = find_network(row.network)
            await self._check(record, values)
            for name, value in values.items():
                if name == "checkpoint_epochs":
                    value = row.checkpoint_epochs | value
                elif name == "sweep":
                    value = merged(row.sweep, value)
                setattr(row, name, value)
            if "sweep" in values or "metric" in values:
                await asyncio.to_thread(check_settings, record, row.sweep, row.metric)
            row.labels = row.labels | dict(labels)
            row.updated_at = utc_now()
            await _check_workspace(session, org, labels)
            await self._assign(session, row, record, datasets)
            await self._variables.write(session, org, row.id, variables)
            await write_record(session, self._storage, row)
            return await self._view(session, row)

    async def delete(self, org: str, experiment_id: UUID) -> ExperimentView:
        """Delete an experiment; jobs of it that have not ended are cancelled, files go when they have."""
        await self._refuse_base(experiment_id)
        registered = await self._cleanup.registered()
        async with self._catalog.writing() as session:
            row = await read_experiment(session, org, experiment_id, lock=True)
            if row.labels["read_only"]:
                raise InvalidInput("The experiment is read-only.", hint="PATCH read_only to false first.")
            view = await self._view(session, row)
            jobs = list(await session.scalars(select(Job).where(Job.experiment_id == experiment_id)))
            refuse(await needed(session, jobs, registered=registered, ended=True, with_owner=True))
            for job in jobs:
                session.add(purge_of(job))
                await session.delete(job)
            await self._variables.forget(session, row.id)
            session.add(Purge(id=uuid4(), paths=[layout.experiment(org, experiment_id)]))
            await session.flush()
            await session.delete(row)
        for job in jobs:
            if JobState(job.state) not in FINAL:
                try:
                    await stop_run(self._runs, job.id, CANCEL, "The experiment was deleted.")
                except NotFound:
                    continue
        await self._cleanup.purge()
        return view

    async def _view(self, session: AsyncSession, row: Experiment) -> ExperimentView:
        return (await self._views(session, [row]))[0]

    async def _views(self, session: AsyncSession, rows: Sequence[Experiment]) -> list[ExperimentView]:
        ids = [row.id for row in rows]
        datasets = await read_datasets(session, ids)
        jobs = await newest_jobs(session, self._reasons, Job.experiment_id, ids)
        names = await self._variables.read_names(session, ids)
        return [
            ExperimentView(row, datasets[row.id], find_network(row.network), jobs[row.id], names.get(row.id, ()))
            for row in rows
        ]

    async def _refuse_base(self, experiment_id: UUID) -> None:
        if await self._base.find(experiment_id) is not None:
            raise InvalidInput(
                "A base experiment is read-only.", hint="Create an experiment and name it as its base_experiment."
            )

    async def _check(self, network: Network, values: Mapping[str, Any]) -> None:
        metric = values.get("metric")
        if metric is not None and metric not in (*network.metrics, *network.training_metrics, KPI, "", "loss"):
            raise InvalidInput(
                f"metric: {network.name} has no metric {metric!r}.",
                hint=f"It has {', '.join(network.metrics)}; {KPI} stands for {network.key_metric}.",
            )
        for base_id in values.get("base_experiment_ids", ()):
            try:
                base = await self._base.read(UUID(base_id))
            except NotFound as error:
                raise InvalidInput(
                    f"base_experiment: there is no base experiment {base_id}.",
                    hint="An empty list trains from scratch.",
                ) from error
            if base.network != network.name:
                raise InvalidInput(f"base_experiment: {base.path} is of {base.network}, not of {network.name}.")

    async def _assign(
        self, session: AsyncSession, row: Experiment, network: Network, datasets: Mapping[str, Sequence[UUID]]
    ) -> None:
        for role, ids in datasets.items():
            assert role in ROLES
            await session.execute(
                delete(ExperimentDataset).where(
                    ExperimentDataset.experiment_id == row.id, ExperimentDataset.role == role
                )
            )
            for position, dataset_id in enumerate(dict.fromkeys(ids)):
                _check_fit(await _assignable(session, row.org, dataset_id, role), network, role)
                session.add(
                    ExperimentDataset(experiment_id=row.id, role=role, position=position, dataset_id=dataset_id)
                )
        await session.flush()


async def _check_workspace(session: AsyncSession, org: str, labels: Mapping[str, Any]) -> None:
    if workspace := labels.get("workspace"):
        try:
            await read_workspace(session, org, UUID(workspace))
        except NotFound as error:
            raise InvalidInput(f"workspace: there is no workspace {workspace}.") from error


async def _assignable(session: AsyncSession, org: str, dataset_id: UUID, role: str) -> Dataset:
    try:
        return await read_dataset(session, org, dataset_id)
    except NotFound as error:
        raise InvalidInput(
            f"{role}: there is no data set {dataset_id}.", hint="GET .../datasets lists those there are."
        ) from error


def _check_fit(dataset: Dataset, network: Network, role: str) -> None:
    if dataset.type not in network.data:
        raise InvalidInput(
            f"{role}: the data set {dataset.id} is for {dataset.type}, {network.name} needs "
            f"{' or '.join(network.data)}."
        )
    formats = network.data[dataset.type]
    if dataset.format == "raw" and role in ("train", "eval"):
        raise InvalidInput(
            f"{role}: the data set {dataset.id} is raw and has no labels.",
            hint=f"Use one of the formats {', '.join(f for f in formats if f != 'raw')}.",
        )
    if dataset.format not in formats:
        raise InvalidInput(
            f"{role}: the data set {dataset.id} has the format {dataset.format}, which {network.name} does not read.",
            hint=f"It reads {', '.join(formats)}.",
        )

"""Train jobs that are sweeps: what they are asked to do when they start and when they go on, and how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from ....blocks import ArtifactStorage, layout
from ....networks.registry import Network
from ....schemas.actions import Action
from ....schemas.errors import ActionNotAllowed, InvalidInput, NotFound
from ....schemas.states import JobState
from ....schemas.sweeps import CONTROLLER_FILE, SweepProgress, SweepSettings, TrialRecord
from ...catalog import Catalog
from ...catalog.models import Experiment, Job
from ...prices import Prices
from ..experiments.specs import find_network, wanted_gpus
from ..experiments.sweeps import asks_for_more, differences, limits_out, read_settings

_RECORDS = TypeAdapter(list[TrialRecord])


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepDetails:
    """A sweep with all its trials, as of its last report."""

    job: Job
    progress: SweepProgress | None
    """None as long as it has not begun."""
    trials: list[TrialRecord]


class SweepService:
    def __init__(self, catalog: Catalog, storage: ArtifactStorage, prices: Prices) -> None:
        self._catalog = catalog
        self._storage = storage
        self._prices = prices

    async def settings_to_start(self, experiment: Experiment, spec: Mapping[str, Any]) -> SweepSettings:
        """Return what a new sweep of an experiment is asked to do; `spec` is that of its trials.

        Raises:
            InvalidInput: settings that do not fit the network, its spec or each other.
        """
        network = find_network(experiment.network)
        settings = await asyncio.to_thread(self._settings_of, experiment, network, spec)
        await asyncio.to_thread(_check_space, network, spec, settings)
        await self._check_warm_start(experiment, settings)
        return settings

    async def settings_to_go_on(self, job: Job, parameters: Mapping[str, Any]) -> tuple[SweepSettings, str]:
        """Return what a sweep is asked to do that is resumed, and what there is to say about it.

        `parameters` are those of its flow as they are now. The present settings of the experiment count, as long as
        they are of the same search; a sweep that is done goes on only if they ask for more.

        Raises:
            ActionNotAllowed: a sweep that is done, and nothing more to do.
            InvalidInput: settings that do not fit.
        """
        async with self._catalog.reading() as session:
            experiment = await session.get_one(Experiment, job.experiment_id)
        network = find_network(experiment.network)
        spec = parameters.get("spec") or {}
        try:
            before = SweepSettings.model_validate(parameters.get("settings") or {})
        except ValidationError as error:
            raise InvalidInput("The sweep was started with settings that are none.", hint="Run a new job.") from error
        now = await asyncio.to_thread(self._settings_of, experiment, network, spec)
        changed = differences(network, before, now)
        if job.state == JobState.DONE:
            _refuse_idle(before, now, changed)
        settings, note = now, ""
        if changed:
            settings = before
            note = f" The experiment now asks for another search ({', '.join(changed)}); this one keeps its settings."
        await asyncio.to_thread(_check_space, network, spec, settings)
        return settings, note

    async def read_details(self, job: Job) -> SweepDetails:
        """Return all that is known of the trials of a sweep.

        Raises:
            NotFound: the job is no sweep.
        """
        if job.sweep is None:
            raise NotFound("No AutoML run found")  # clients compare the words
        return SweepDetails(
            job=job,
            progress=SweepProgress.model_validate(job.sweep) if job.sweep else None,
            trials=await asyncio.to_thread(self._read_trials, job),
        )

    def _read_trials(self, job: Job) -> list[TrialRecord]:
        try:
            content = self._storage.read_bytes(f"{layout.job(job.org, job.id)}/{CONTROLLER_FILE}")
        except NotFound:  # it has not begun
            return []
        return _RECORDS.validate_json(content)

    def _settings_of(self, experiment: Experiment, network: Network, spec: Mapping[str, Any]) -> SweepSettings:
        # why the dearest: nobody knows which worker takes a trial, and to stay below a budget does no harm
        hour = self._prices.dearest_hour(cpus=1, gpus=wanted_gpus({"spec": spec}))
        settings = read_settings(network, experiment.sweep, experiment.metric, cost_per_hour=hour)
        if settings.max_cost is not None and not hour:
            raise InvalidInput(
                "automl_settings.automl_max_cost: this yard has no prices, so nobody can tell what trials cost.",
                hint="PATCH it to null and use automl_max_seconds, or let the operator set prices.",
            )
        return settings

    async def _check_warm_start(self, experiment: Experiment, settings: SweepSettings) -> None:
        query = select(Job.id, Job.network, Job.sweep).where(Job.org == experiment.org, Job.id.in_(settings.warm_start))
        async with self._catalog.reading() as session:
            found = {row.id: row for row in await session.execute(query)}
        for job_id in settings.warm_start:
            source = found.get(job_id)
            if source is None:
                problem = f"there is no job {job_id}."
            elif source.sweep is None:
                problem = f"the job {job_id} is no search."
            elif source.network != experiment.network:
                problem = f"the job {job_id} is of {source.network}, not of {experiment.network}."
            else:
                continue
            raise InvalidInput(
                f"automl_settings.automl_warm_start: {problem}", hint="Give ids of train jobs that were searches."
            )


def _check_space(network: Network, spec: Mapping[str, Any], settings: SweepSettings) -> None:
    """Raise InvalidInput when there is no space that the search could search."""
    # why here: it loads Optuna, 40 MB that a yard without searches can do without
    from ....sweeps.samplers import check_algorithm
    from ....sweeps.space import build_space

    own = [path for path in (network.epochs_parameter, network.metric_parameter) if path is not None]
    space = build_space(network.spec(Action.TRAIN), spec, settings, reserved=own)
    check_algorithm(settings, space.distributions)
    if settings.algorithm == "grid":
        space.grid()  # which may be too large


def _refuse_idle(before: SweepSettings, now: SweepSettings, changed: list[str]) -> None:
    """Raise when a sweep that is done would have nothing to go on with."""
    if changed:
        raise ActionNotAllowed(
            f"The sweep is done, and the experiment now asks for another one: {', '.join(changed)} differ.",
            hint="PATCH them back to extend the sweep, or run a new job.",
        )
    if not asks_for_more(before, now):
        raise ActionNotAllowed(
            "The sweep is done with all that it was asked for.",
            hint=f"To extend it, PATCH the experiment with more of {limits_out(before)}.",
        )

"""Jobs that somebody started without the facade: in the Prefect UI, by a schedule, by a pipeline."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from ....networks.registry import network_name
from ....schemas.actions import DATASET_ACTIONS, Action
from ....schemas.jobs import TAG, Datasets
from ....schemas.states import JobState
from ...catalog import Catalog
from ...catalog.bundles import Bundle
from ...catalog.models import Dataset, Experiment, Job, Org, Purge
from ..jobs.runs import FlowRun, FlowRuns

#: Puts a row just behind the flow run, so that the next look takes the state over.
TICK = timedelta(microseconds=1)


async def adopt_run(catalog: Catalog, runs: FlowRuns, run_id: UUID) -> Job | None:
    """Return the new row of a flow run, None if it is no job of a known org, experiment or data set.

    Raises:
        NotFound: there is no such flow run any more.
    """
    async with catalog.reading() as session:
        if await session.scalar(select(Purge.id).where(Purge.flow_run_id == run_id)) is not None:
            return None
    # why: a deletion that is complete has taken the flow run, too; whoever has read that earlier must not adopt it
    run = await runs.read(run_id)
    if run.is_trial:
        return None
    is_sweep = await runs.is_sweep(run)
    async with catalog.reading() as session:
        job = await _row_of(session, run, is_sweep)
    if job is None:
        return None
    try:
        async with catalog.writing() as session:
            session.add(job)
    except IntegrityError:  # the facade wrote the row of its own job just now
        async with catalog.reading() as session:
            return await session.get(Job, run_id)
    return job


async def _row_of(session: AsyncSession, run: FlowRun, is_sweep: bool) -> Job | None:
    found = identity(run)
    try:
        action = Action(found.get("action", ""))
        experiment_id, dataset_id, bundle_id, parent_id = (
            _uuid(found.get(name)) for name in ("experiment", "dataset", "bundle", "parent")
        )
        chosen = Datasets.model_validate(run.parameters.get("datasets") or {})
    except ValueError:
        return None
    org = await session.get(Org, found.get("org", ""))
    if org is None:
        return None
    network = found.get("network")
    dataset_ids: list[UUID]
    if action in DATASET_ACTIONS:
        dataset = await session.get(Dataset, dataset_id) if dataset_id else None
        if dataset is None or dataset.org != org.name:
            return None
        experiment_id, network, dataset_ids = None, None, [dataset.id]
    elif action is Action.RUN:
        experiment_id, dataset_id, network, dataset_ids = None, None, None, []
    elif action is Action.TRAIN_BUNDLE:
        experiment_id, dataset_id, network, dataset_ids = None, None, None, []
        bundle = await session.get(Bundle, bundle_id) if bundle_id else None
        if bundle is None or bundle.org != org.name:
            return None
    else:
        experiment = await session.get(Experiment, experiment_id) if experiment_id else None
        if experiment is None or experiment.org != org.name:
            return None
        dataset_id, network = None, network_name(network or experiment.network)
        dataset_ids = [*chosen.train, *(i for i in (chosen.eval, chosen.inference, chosen.calibration) if i)]
    spec = run.parameters.get("command" if action is Action.RUN else "spec")
    # From the first moment: a run that is set for later must not look like one that somebody has asked for.
    is_queued = run.state == JobState.PENDING and run.state_type == "SCHEDULED"
    return Job(
        id=run.id,
        org=org.name,
        experiment_id=experiment_id,
        dataset_id=dataset_id,
        bundle_id=bundle_id if action is Action.TRAIN_BUNDLE else None,
        action=action,
        network=network,
        parent_id=parent_id,
        name=str(run.parameters.get("name") or run.name)[:500],
        description="",
        spec=spec if isinstance(spec, dict) else {},
        dataset_ids=[str(i) for i in dataset_ids],
        state=JobState.PENDING if is_queued else JobState.WAITING,
        due_at=run.due_at if is_queued else None,
        pending_at=run.state_at if is_queued else None,
        state_at=run.state_at - TICK,
        message="",
        fraction=0.0,
        history=[],
        sweep={} if is_sweep else None,
        created_at=run.created_at,
    )


def identity(run: FlowRun) -> dict[str, str]:
    """Return what tags and parameters say about who a job belongs to."""
    found = {
        name: str(value)
        for name, key in (
            ("org", "org"),
            ("network", "network"),
            ("experiment", "experiment_id"),
            ("dataset", "dataset_id"),
            ("bundle", "bundle_id"),
            ("parent", "parent_job_id"),
        )
        if (value := run.parameters.get(key))
    }
    for tag in run.tags:
        name, _, value = tag.removeprefix(TAG).partition(":")
        if tag.startswith(TAG) and value:
            found.setdefault(name, value)
    return found


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None

"""The copy of an experiment that jobs read, kept in step with the catalog."""

from __future__ import annotations

import asyncio
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ....blocks import ArtifactStorage, layout
from ....schemas.jobs import Datasets, ExperimentRecord
from ...catalog.models import Experiment, ExperimentDataset

ROLES = ("train", "eval", "inference", "calibration")


async def read_datasets(session: AsyncSession, experiment_ids: list[UUID]) -> dict[UUID, Datasets]:
    """Return the data sets of experiments by role."""
    links = await session.scalars(
        select(ExperimentDataset)
        .where(ExperimentDataset.experiment_id.in_(experiment_ids))
        .order_by(ExperimentDataset.position)
    )
    found = {experiment_id: Datasets() for experiment_id in experiment_ids}
    for link in links:
        datasets = found[link.experiment_id]
        if link.role == "train":
            datasets.train = [*datasets.train, link.dataset_id]
        else:
            setattr(datasets, link.role, link.dataset_id)
    return found


async def write_record(session: AsyncSession, storage: ArtifactStorage, experiment: Experiment) -> None:
    """Write the copy of an experiment into the storage, as the open transaction sees it."""
    await session.flush()
    record = ExperimentRecord(
        id=experiment.id,
        name=experiment.name,
        network=experiment.network,
        datasets=(await read_datasets(session, [experiment.id]))[experiment.id],
        base_experiment_ids=[UUID(i) for i in experiment.base_experiment_ids],
        checkpoint=experiment.checkpoint,
        checkpoint_epochs=experiment.checkpoint_epochs,
    )
    path = layout.experiment(experiment.org, experiment.id)
    await asyncio.to_thread(storage.write_json, path, record.model_dump(mode="json"))

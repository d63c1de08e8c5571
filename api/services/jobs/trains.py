"""The train jobs of an experiment, with what a list of them tells."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from ....schemas.actions import TRAINING, Action
from ....schemas.states import JobState
from ...catalog import Catalog
from ...catalog.models import Experiment, Job, utc_now
from ..access import read_experiment
from ..paging import Page, read_page
from .schedules import UpcomingRuns

#: What is due later than this is not requested yet.
_SOON = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trains:
    """A page of the train jobs of an experiment, newest first."""

    experiment: Experiment
    jobs: list[Job]
    with_predictions: Collection[UUID]
    """Those whose model, or one made from it, has predicted something."""
    next_at: datetime | None


class TrainService:
    def __init__(self, catalog: Catalog, upcoming: UpcomingRuns) -> None:
        self._catalog = catalog
        self._upcoming = upcoming

    async def read(self, org: str, experiment_id: UUID, page: Page, *, newest_only: bool) -> Trains:
        """Return train jobs of an experiment; with `newest_only` the last one of each action.

        Raises:
            NotFound: no such experiment.
        """
        # why so late: the clocks of two machines differ.
        soon = utc_now() + _SOON
        # What is only set for later shows in `next_at`; what is tried again has been started before.
        is_due = or_(
            Job.state != JobState.PENDING, Job.due_at.is_(None), Job.due_at <= soon, Job.started_at.is_not(None)
        )
        wanted = and_(Job.experiment_id == experiment_id, Job.action.in_(TRAINING), is_due)
        query = select(Job).where(Job.org == org, wanted)
        if newest_only:
            rank = func.row_number().over(partition_by=Job.action, order_by=(Job.created_at.desc(), Job.id.desc()))
            ranked = select(Job.id, rank.label("rank")).where(wanted).subquery()
            query = query.join(ranked, ranked.c.id == Job.id).where(ranked.c.rank == 1)
        async with self._catalog.reading() as session:
            experiment = await read_experiment(session, org, experiment_id)
            jobs, _ = await read_page(session, query, Job, page)
            with_predictions = await _with_predictions(session, [job.id for job in jobs])
        return Trains(
            experiment=experiment,
            jobs=jobs,
            with_predictions=with_predictions,
            next_at=self._upcoming.next_of(experiment_id),
        )


async def _with_predictions(session: AsyncSession, ids: list[UUID]) -> set[UUID]:
    line = (
        select(Job.id, Job.parent_id.label("root"), Job.action, Job.state)
        .where(Job.parent_id.in_(ids))
        .cte("line", recursive=True)
    )
    child = aliased(Job)
    line = line.union(select(child.id, line.c.root, child.action, child.state).join(line, child.parent_id == line.c.id))
    done = (line.c.action == Action.INFERENCE) & (line.c.state == JobState.DONE)
    return set(await session.scalars(select(line.c.root).where(done).distinct()))

"""The end of a sweep is the end of its trials: the safety net below its own process, which sees to that as a rule."""

from __future__ import annotations

import logging
from uuid import UUID

from sqlalchemy import select

from ....schemas.errors import NotFound, YardError
from ....schemas.states import FINAL, JobState
from ...catalog import Catalog
from ...catalog.models import Job
from .busy import BusyJobs
from .runs import FlowRuns
from .stopping import CANCEL, PAUSE, stop_run

logger = logging.getLogger(__name__)


class Trials:
    """Stops what a sweep has left behind that was killed, lost or stopped while it had no process."""

    def __init__(self, catalog: Catalog, runs: FlowRuns, busy: BusyJobs) -> None:
        self._catalog = catalog
        self._runs = runs
        self._busy = busy

    async def stop_after(self, sweep_id: UUID) -> None:
        """Stop the trials of a sweep as it was stopped itself; those of one that goes on are left alone.

        What cannot be done now is left to `stop_leftovers`: the stop of the sweep stands.
        """
        try:
            await self._stop_after(sweep_id)
        except YardError as error:
            logger.warning("Trials of the sweep %s were not stopped yet: %s", sweep_id, error)

    async def stop_leftovers(self) -> None:
        """Stop the trials of all sweeps that have stopped and are not known to have none left."""
        stopped = Job.sweep.is_not(None) & Job.state.in_([*FINAL, JobState.PAUSED])
        async with self._catalog.reading() as session:
            ids = list(await session.scalars(select(Job.id).where(Job.unaccounted.is_(True), stopped)))
        for sweep_id in ids:
            await self.stop_after(sweep_id)

    async def _stop_after(self, sweep_id: UUID) -> None:
        # Nobody resumes the sweep meanwhile: its trials would be stopped although it goes on.
        async with self._busy.changing([sweep_id]):
            state = await self._state_of(sweep_id)
            if state not in (*FINAL, JobState.PAUSED):
                return
            paused = state == JobState.PAUSED
            how, said = (PAUSE, "Its sweep was paused.") if paused else (CANCEL, "Its sweep has ended.")
            for trial in await self._runs.read_trials(sweep_id, live=True):
                if paused and trial.state == JobState.PAUSED:
                    continue
                try:
                    await stop_run(self._runs, trial.id, how, said)
                except NotFound:
                    continue  # deleted since

    async def _state_of(self, sweep_id: UUID) -> JobState:
        try:
            return (await self._runs.read(sweep_id)).state
        except NotFound:  # deleted in Prefect, which ends it
            return JobState.CANCELLED

"""When experiments are trained next: runs that a schedule of Prefect, or somebody by hand, has set for later."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from ....schemas.actions import TRAINING
from ...catalog.models import utc_now
from .runs import PAGE, FlowRuns

_PAGES_MAX = 10


class UpcomingRuns:
    """Keeps the next moment of each experiment in memory, so that no reader waits for Prefect."""

    def __init__(self, runs: FlowRuns) -> None:
        self._runs = runs
        self._next: dict[str, datetime] = {}

    async def refresh(self) -> None:
        found: dict[str, datetime] = {}
        for page_number in range(_PAGES_MAX):
            upcoming = await self._runs.read_upcoming_page(TRAINING, page_number * PAGE)
            for run in upcoming:
                experiment_id = str(run.parameters.get("experiment_id"))
                if run.due_at is not None and (experiment_id not in found or run.due_at < found[experiment_id]):
                    found[experiment_id] = run.due_at
            if len(upcoming) < PAGE:
                break
        self._next = found

    def next_of(self, experiment_id: UUID) -> datetime | None:
        """Return when an experiment is trained next, None when nothing is set."""
        at = self._next.get(str(experiment_id))
        return at if at is not None and at > utc_now() else None

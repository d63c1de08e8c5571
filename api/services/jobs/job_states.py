"""Groups of job states that queries ask for."""

from __future__ import annotations

from ....schemas.states import FINAL, JobState

#: Jobs that have not ended.
LIVE = [state for state in JobState if state not in FINAL]
#: Jobs that are with workers or in their queue: what `max_running` of an org counts.
ACTIVE = [JobState.PENDING, JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING]
#: Jobs that may have a process.
WITH_PROCESS = [JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING]

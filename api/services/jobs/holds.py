"""What is in the way of a job that has not started: one function decides, for POST, for the release and for readers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ....schemas.states import AWAITING_CODE, AWAITING_DATA, AWAITING_PARENT, AWAITING_QUOTA, JobState
from ..data.data_status import DatasetStatus

_PARENT_ENDED = re.compile(r"The parent job ([0-9a-f-]{36}) (failed|was cancelled)(.*)", re.DOTALL)
_BECAUSE = re.compile(r" because the job ([0-9a-f-]{36}) (?:failed|was cancelled)(.*)", re.DOTALL)
_REASON_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Held:
    """The job has to wait; `name` is the name of its state in Prefect."""

    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Doomed:
    """The job can never start."""

    state: JobState
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentFacts:
    """What a child needs to know of its parent."""

    id: UUID
    state: JobState
    message: str
    fraction: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What a job needs to know of a data set; `problem` says why its content does not do."""

    id: UUID
    status: DatasetStatus | None
    """None when it is gone."""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaFacts:
    """How many jobs of the org are active, and how many may be."""

    active: int
    most: int


NO_CODE = Held(AWAITING_CODE, "Waiting for the code: upload it to the upload_url, then POST code_submission.")


def in_the_way(
    parent_id: UUID | None,
    parent: ParentFacts | None,
    data: Sequence[DataFacts],
    quota: QuotaFacts | None,
    awaits_code: bool = False,
) -> Held | Doomed | None:
    """Return why a job cannot start now, None when it can. `parent` is None for one that does not exist."""
    if awaits_code:
        return NO_CODE
    if parent_id is not None and (found := _of_parent(parent_id, parent)) is not None:
        return found
    for dataset in data:
        if (found := _of_data(dataset)) is not None:
            return found
    if quota is not None and quota.active >= quota.most:
        return Held(
            AWAITING_QUOTA,
            f"Waiting for the quota of the org, which runs {quota.active} of {quota.most} jobs.",
        )
    return None


def _of_parent(parent_id: UUID, parent: ParentFacts | None) -> Held | Doomed | None:
    if parent is None:
        return Doomed(JobState.FAILED, f"The parent job {parent_id} does not exist any more.")
    if parent.state == JobState.DONE:
        return None
    if parent.state == JobState.CANCELLED:
        return Doomed(JobState.CANCELLED, _ended(parent, "was cancelled"))
    if parent.state == JobState.FAILED:
        return Doomed(JobState.FAILED, _ended(parent, "failed"))
    now = {
        JobState.WAITING: "waits itself",
        JobState.PENDING: "is pending",
        JobState.RUNNING: f"is running, {parent.fraction:.0%}",
        JobState.PAUSING: "is being paused",
        JobState.CANCELLING: "is being stopped",
        JobState.PAUSED: "is paused: resume or cancel it",
    }[parent.state]
    return Held(AWAITING_PARENT, f"Waiting for the parent job {parent_id}, which {now}.")


def _ended(parent: ParentFacts, how: str) -> str:
    """Return the reason that all descendants of a parent share: it names the first job of the chain that ended."""
    if (earlier := _PARENT_ENDED.match(parent.message)) is not None:
        first, said, rest = earlier[1], earlier[2], earlier[3]
        if (because := _BECAUSE.match(rest)) is not None:
            first, rest = because[1], because[2]
        return f"The parent job {first} {said}{rest}"
    cause = f": {parent.message}" if parent.message and how == "failed" else "."
    return f"The parent job {parent.id} {how}{cause}"[:_REASON_CHARS]


def doom_of_children(parent_id: UUID, doom: Doomed) -> Doomed:
    """Return what becomes of the children of a doomed job, and of theirs."""
    found = _of_parent(parent_id, ParentFacts(id=parent_id, state=doom.state, message=doom.reason))
    assert isinstance(found, Doomed)
    return found


def told_to(parent_id: UUID | None, reason: str) -> str:
    """Return a shared reason as a certain child tells it: with the id of its own parent."""
    found = _PARENT_ENDED.match(reason)
    if found is None or parent_id is None or found[1] == str(parent_id):
        return reason
    first, how, rest = found.groups()
    return f"The parent job {parent_id} {how} because the job {first} {how}{rest}"


def _of_data(dataset: DataFacts) -> Held | Doomed | None:
    if dataset.status == DatasetStatus.RECEIVING:
        return Held(AWAITING_DATA, f"Waiting for the data set {dataset.id}, which is still being uploaded.")
    if dataset.status is None:
        return Doomed(JobState.FAILED, f"The data set {dataset.id} does not exist any more.")
    if dataset.status == DatasetStatus.EMPTY:
        return Doomed(JobState.FAILED, f"The data set {dataset.id} has no files: its upload did not succeed.")
    if dataset.problem:
        return Doomed(JobState.FAILED, f"The data set {dataset.id} does not do: {dataset.problem}")
    return None

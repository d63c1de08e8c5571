"""States of commands, finer than those of other jobs: whose fault an end was."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import ColumnElement, and_, false, or_

from ....schemas.commands import ENDED_COMMAND, ENDED_SETUP, KILLED_COMMAND, UPLOADING_MESSAGE
from ....schemas.states import AWAITING_CODE, JobState
from ...catalog.models import Job

#: Names of the states of a job that the yard itself has given up.
_ENDED = (ENDED_COMMAND, ENDED_SETUP)
_GIVEN_UP = ("TimedOut", "Crashed", "Deleted")
_WITH_PROCESS = (JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING)
_STOPPED = (JobState.PAUSED, JobState.CANCELLED)


class CommandState(StrEnum):
    SUBMIT_CODE = "SUBMIT_CODE"
    LAUNCHING = "LAUNCHING"
    RUNNING = "RUNNING"
    UPLOADING = "UPLOADING"
    SUCCESS = "SUCCESS"
    ERROR = "ERROR"
    USER_PROCESS_FAILED = "USER_PROCESS_FAILED"
    SYSTEM_TERMINATED = "SYSTEM_TERMINATED"
    USER_CANCELLED = "USER_CANCELLED"


FAILURES = (CommandState.ERROR, CommandState.USER_PROCESS_FAILED, CommandState.SYSTEM_TERMINATED)
ENDS = frozenset({*FAILURES, CommandState.SUCCESS, CommandState.USER_CANCELLED})


def state_of(job: Job) -> CommandState:
    state = JobState(job.state)
    if state in (JobState.WAITING, JobState.PENDING):
        return CommandState.SUBMIT_CODE if job.state_name == AWAITING_CODE else CommandState.LAUNCHING
    if state in _WITH_PROCESS:
        return CommandState.UPLOADING if job.message == UPLOADING_MESSAGE else CommandState.RUNNING
    if state in _STOPPED:
        return CommandState.USER_CANCELLED
    if state == JobState.DONE:
        return CommandState.SUCCESS
    if job.state_name in _GIVEN_UP or job.message.startswith(KILLED_COMMAND):
        return CommandState.SYSTEM_TERMINATED
    return CommandState.USER_PROCESS_FAILED if job.message.startswith(_ENDED) else CommandState.ERROR


def in_state(state: CommandState) -> ColumnElement[bool]:
    """Return the SQL condition that says the same as `state_of`."""
    queued = Job.state.in_((JobState.WAITING, JobState.PENDING))
    failed = Job.state == JobState.FAILED
    given_up = or_(Job.state_name.in_(_GIVEN_UP), Job.message.startswith(KILLED_COMMAND))
    ended_badly = or_(*(Job.message.startswith(words) for words in _ENDED))
    return {
        CommandState.SUBMIT_CODE: and_(queued, Job.state_name == AWAITING_CODE),
        CommandState.LAUNCHING: and_(queued, Job.state_name != AWAITING_CODE),
        CommandState.RUNNING: and_(Job.state.in_(_WITH_PROCESS), Job.message != UPLOADING_MESSAGE),
        CommandState.UPLOADING: and_(Job.state.in_(_WITH_PROCESS), Job.message == UPLOADING_MESSAGE),
        CommandState.SUCCESS: Job.state == JobState.DONE,
        CommandState.ERROR: and_(failed, ~given_up, ~ended_badly),
        CommandState.USER_PROCESS_FAILED: and_(failed, ~given_up, ended_badly),
        CommandState.SYSTEM_TERMINATED: and_(failed, given_up),
        CommandState.USER_CANCELLED: Job.state.in_(_STOPPED),
    }[state]


def in_states(states: tuple[CommandState, ...]) -> ColumnElement[bool]:
    return or_(false(), *(in_state(state) for state in states))

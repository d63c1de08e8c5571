from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from prefect_trainyard.deployments.ends import Loss, next_end, why_it_ended
from prefect_trainyard.deployments.prefect_runs import Run
from prefect_trainyard.schemas.attempts import ATTEMPT_LABEL, CRASHES_LABEL, LIMIT_LABEL, Attempt
from prefect_trainyard.schemas.states import PAUSING, TIMING_OUT

LOSS = Loss(cause="The worker of this run died.")
STOP = Loss(cause="The worker was stopped.", counts=False)


def make_run(state_type: str, state_name: str | None = None, **given: Any) -> Run:
    known: dict[str, Any] = {
        "id": uuid4(),
        "name": "lively-ox",
        "state_id": str(uuid4()),
        "message": "",
        "suspended": False,
        "labels": {},
        "job_variables": {},
        "expected_start_at": datetime(2026, 1, 1, tzinfo=UTC),
        "has_process": True,
        "retries_in_process": False,
    }
    return Run(state_type=state_type, state_name=state_name or state_type.title(), **{**known, **given})


@pytest.mark.parametrize("state_type", ["COMPLETED", "FAILED", "CRASHED", "CANCELLED", "SCHEDULED"])
@pytest.mark.parametrize("loss", [LOSS, STOP])
def test_what_has_ended_or_is_queued_stays_so(state_type: str, loss: Loss) -> None:
    assert next_end(make_run(state_type), loss) is None


def test_what_a_person_has_suspended_stays_so() -> None:
    assert next_end(make_run("PAUSED", "Suspended", suspended=True), LOSS) is None


def test_what_waits_inside_its_process_is_lost_with_it() -> None:
    end = next_end(make_run("PAUSED", "Paused"), LOSS)
    assert end is not None
    assert end.state.name == "AwaitingRetry"
    end = next_end(make_run("SCHEDULED", "AwaitingRetry", retries_in_process=True), LOSS)
    assert end is not None
    assert end.state.name == "AwaitingRetry"


@pytest.mark.parametrize("loss", [LOSS, STOP])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Cancelling", ("CANCELLED", "Cancelled")),
        (PAUSING, ("PAUSED", "Suspended")),
        (TIMING_OUT, ("FAILED", "TimedOut")),
    ],
)
def test_a_stop_ends_by_its_name_whoever_sees_to_it(loss: Loss, name: str, expected: tuple[str, str]) -> None:
    end = next_end(make_run("CANCELLING", name, message="Because."), loss)
    assert end is not None
    assert (end.state.type, end.state.name) == expected
    assert end.state.message == "Because."
    assert end.crashes is None


def test_a_stop_of_the_worker_does_not_count() -> None:
    end = next_end(make_run("RUNNING", labels={CRASHES_LABEL: 2}), STOP)
    assert end is not None
    assert end.state.name == "AwaitingRetry"
    assert end.crashes is None


@pytest.mark.parametrize(
    ("labels", "job_variables", "limit"),
    [
        ({}, {}, 3),
        ({}, {"max_attempts": 5}, 5),
        ({LIMIT_LABEL: 1}, {"max_attempts": 5}, 1),
        ({LIMIT_LABEL: "x"}, {}, 3),
    ],
)
def test_the_last_crash_is_the_end(labels: dict[str, Any], job_variables: dict[str, Any], limit: int) -> None:
    names = []
    for crashes in range(limit):
        run = make_run("RUNNING", labels={**labels, CRASHES_LABEL: crashes}, job_variables=job_variables)
        end = next_end(run, LOSS)
        assert end is not None
        assert end.crashes == crashes + 1
        assert f"attempt {crashes + 1} of {limit}" in end.state.message
        names.append(end.state.name)
    assert names == ["AwaitingRetry"] * (limit - 1) + ["Crashed"]


def test_run_that_was_held_until_its_parent_ended_is_queued_for_when_it_first_started() -> None:
    """Prefect expects it in the far future for ever."""
    far, at = datetime(2999, 12, 31, tzinfo=UTC), datetime.now(UTC) - timedelta(hours=1)
    attempt = Attempt(number=1, at=at, worker="w", host="h", cpus=1)
    labels = {f"{ATTEMPT_LABEL}1": attempt.model_dump_json()}
    end = next_end(make_run("RUNNING", expected_start_at=far, labels=labels), LOSS)
    assert end is not None
    assert end.state.details["scheduled_time"] == at.isoformat()


def test_the_cause_names_signal_and_memory() -> None:
    assert "-15 (SIGTERM)" in why_it_ended(-15, out_of_memory=False)
    assert "memory" not in why_it_ended(-15, out_of_memory=False)
    assert "Most often" in why_it_ended(-9, out_of_memory=False)
    assert "because memory ran out" in why_it_ended(-9, out_of_memory=True)
    assert "exit code 1" in why_it_ended(1, out_of_memory=False)

"""Stops that meet another change of the same run: Prefect looks at a state first and replaces it later."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import pytest
from facade_support import Member
from prefect_trainyard.api.services.jobs.runs import FlowRuns
from prefect_trainyard.api.services.jobs.stopping import CANCEL, PAUSE, TIME_OUT, Stop, stop_run

PENDING = {"type": "PENDING", "name": "Pending"}
RUNNING = {"type": "RUNNING", "name": "Running"}
QUEUED = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "The worker of this run died."}
PAUSING = {"type": "CANCELLING", "name": "Pausing"}
CANCELLING = {"type": "CANCELLING", "name": "Cancelling", "message": "by somebody else"}
SUSPENDED = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
COMPLETED = {"type": "COMPLETED", "name": "Completed"}


class LateRuns(FlowRuns):
    """Lets another state come between Prefect's look at a run and what it does then."""

    def __init__(self, api_url: str, between: dict[str, Any]) -> None:
        super().__init__(api_url)
        self._between: dict[str, Any] | None = between

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        if path == "/flow_runs/bulk_set_state" and self._between is not None:
            assert isinstance(body, dict)
            run_id = body["flow_runs"]["id"]["any_"][0]
            between, self._between = self._between, None
            await super()._call("POST", f"/flow_runs/{run_id}/set_state", {"state": between, "force": True})
            return await super()._call(method, path, {**body, "flow_runs": {"id": {"any_": [run_id]}}})
        return await super()._call(method, path, body)


@pytest.mark.parametrize(
    ("how", "seen", "between", "expected"),
    [
        # the worker died, and its run was given back
        (PAUSE, RUNNING, QUEUED, ("PAUSED", "Suspended")),
        (TIME_OUT, RUNNING, QUEUED, ("FAILED", "TimedOut")),
        (CANCEL, RUNNING, QUEUED, ("CANCELLED", "Cancelled")),
        # a worker has just taken it
        (PAUSE, QUEUED, PENDING, ("CANCELLING", "Pausing")),
        (TIME_OUT, QUEUED, PENDING, ("CANCELLING", "TimingOut")),
        (CANCEL, SUSPENDED, PENDING, ("CANCELLING", "Cancelling")),
        # it has just ended by itself
        (PAUSE, RUNNING, COMPLETED, ("COMPLETED", "Completed")),
        (PAUSE, QUEUED, COMPLETED, ("COMPLETED", "Completed")),
        # somebody else was faster
        (PAUSE, RUNNING, CANCELLING, ("CANCELLING", "Cancelling")),
        (PAUSE, RUNNING, SUSPENDED, ("PAUSED", "Suspended")),
        (PAUSE, PENDING, PAUSING, ("CANCELLING", "Pausing")),
        (TIME_OUT, PENDING, PAUSING, ("CANCELLING", "Pausing")),
        (PAUSE, QUEUED, CANCELLING, ("CANCELLED", "Cancelled")),
        (CANCEL, PAUSING, SUSPENDED, ("CANCELLED", "Cancelled")),
        (CANCEL, PAUSING, COMPLETED, ("COMPLETED", "Completed")),
    ],
)
def test_a_stop_that_meets_another_change_ends_as_it_would_have_a_moment_later(
    ann: Member, how: Stop, seen: dict[str, Any], between: dict[str, Any], expected: tuple[str, str]
) -> None:
    run_id = ann.start(f"experiments/{ann.ready()}", "train")
    prefect = ann.facade.prefect
    states = [RUNNING, seen] if seen is not RUNNING else [RUNNING]
    for state in states:
        prefect.client.post(f"flow_runs/{run_id}/set_state", json={"state": state, "force": True}).raise_for_status()

    async def stop() -> str:
        runs = LateRuns(prefect.api_url, between)
        try:
            return (await stop_run(runs, UUID(run_id), how, "By the user.")).state_name
        finally:
            await runs.close()

    assert asyncio.run(stop()) == expected[1]
    state = prefect.run(run_id)["state"]
    assert (state["type"], state["name"]) == expected
    if between is CANCELLING and expected == ("CANCELLING", "Cancelling"):
        assert state["message"] == "by somebody else"

"""A stop is asked for by a state; the worker ends the process and sets what the name of the state stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling, Scheduled, Suspended
from prefect_trainyard.schemas.attempts import OWNER_LABEL, WORKER_LABEL
from prefect_trainyard.schemas.states import PAUSING, TIMING_OUT
from station import Station, eventually, is_alive, read, read_again

pytestmark = pytest.mark.usefixtures("worker")


def stop(name: str, message: str | None = None) -> State[None]:
    return State(type=StateType.CANCELLING, name=name, message=message)


def test_pausing_saves_and_suspends_and_resuming_goes_on_under_the_same_id(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out), "save_s": 0.2})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, stop(PAUSING))
    state = station.wait(run, "Suspended")
    assert state.type == StateType.PAUSED
    assert state.state_details.pause_reschedule is True
    assert state.state_details.pause_timeout is None
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"
    assert not any(map(is_alive, pids))
    eventually(lambda: station.labels(run)[OWNER_LABEL] == "")

    station.client.set_flow_run_state(run.id, Scheduled(name="Resuming"))
    read_again(out, pids)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    names = [line.partition(":")[0] for line in station.history(run).splitlines()]
    assert "Crashed" not in names
    assert names.count("Running") == 2


def test_suspended_run_is_cancelled_by_the_server_at_once(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    read(out)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, stop(PAUSING))
    station.wait(run, "Suspended")
    station.client.set_flow_run_state(run.id, Cancelling())
    assert station.state(run).name == "Cancelled"


def test_timing_out_fails_with_the_reason_kept(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    read(out)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, stop(TIMING_OUT, "It ran for more than 5 minutes."))
    state = station.wait(run, "TimedOut")
    assert state.type == StateType.FAILED
    assert state.message == "It ran for more than 5 minutes."


def test_a_cancel_that_comes_while_pausing_wins(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out), "save_s": 1.0})
    read(out)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, stop(PAUSING))
    station.client.set_flow_run_state(run.id, Cancelling(), force=True)
    station.wait(run, "Cancelled")


def test_suspending_in_the_prefect_ui_ends_the_process(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Suspended())
    eventually(lambda: not any(map(is_alive, pids)))
    eventually(lambda: station.labels(run)[OWNER_LABEL] == "")
    assert station.state(run).name == "Suspended"
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"


def test_run_that_is_deleted_loses_its_process(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    station.client.delete_flow_run(run.id)
    eventually(lambda: not any(map(is_alive, pids)))


def test_a_run_does_not_start_before_its_last_process_is_gone(station: Station, tmp_path: Path) -> None:
    """The other process belongs to a worker of another machine that is still to be heard of."""
    out = tmp_path / "out"
    at = station.later(3600)
    run = station.submit("hold", parameters={"out": str(out)}, state=Scheduled(scheduled_time=at))
    station.beat("far away")
    station.set_labels(run, {OWNER_LABEL: "elsewhere 1:1", WORKER_LABEL: "far away"})
    station.client.set_flow_run_state(run.id, Scheduled())
    state = station.wait(run, "AwaitingProcess")
    assert "'far away'" in (state.message or "")
    assert not out.exists()
    station.set_labels(run, {OWNER_LABEL: ""})
    read(out)
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")


def test_cancel_while_it_waits_for_its_last_process(station: Station, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = station.submit("hold", parameters={"out": str(out)}, state=Scheduled(scheduled_time=station.later(3600)))
    station.beat("far away")
    station.set_labels(run, {OWNER_LABEL: "elsewhere 1:1", WORKER_LABEL: "far away"})
    station.client.set_flow_run_state(run.id, Scheduled())
    station.wait(run, "AwaitingProcess")
    station.client.set_flow_run_state(run.id, stop("Cancelling", "Ann has changed her mind."))
    station.set_labels(run, {OWNER_LABEL: ""})
    assert station.wait(run, "Cancelled").message == "Ann has changed her mind."
    assert not out.exists()

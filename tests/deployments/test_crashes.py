from __future__ import annotations

import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect.states import Cancelling
from prefect_trainyard.schemas.attempts import CRASHES_LABEL, OWNER_LABEL, WORKER_LABEL, read_attempts
from station import Process, Station, Wire, eventually, free_port, is_alive, read, read_again

pytestmark = pytest.mark.usefixtures("worker")


def test_killed_run_starts_again_at_its_old_time_until_its_attempts_are_used_up(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)}, max_attempts=2, cpus=2, gpus=1)
    pids = read(out)["pids"]
    station.wait(run, "Running")
    os.kill(pids[0], signal.SIGKILL)
    again = read_again(out, pids)
    assert not any(map(is_alive, pids))
    assert "AwaitingRetry: The process of the run was killed: -9 (SIGKILL)." in station.history(run)
    station.wait(run, "Running")
    os.kill(again[0], signal.SIGSEGV)
    state = station.wait(run, "Crashed")
    assert "-11 (SIGSEGV)" in (state.message or "")
    assert "failed attempt 2 of 2" in (state.message or "")

    known = station.client.read_flow_run(run.id)
    labels = eventually(lambda: (found := station.labels(run))[OWNER_LABEL] == "" and found)
    assert labels[CRASHES_LABEL] == 2
    first, second = read_attempts(labels)
    assert (first.number, first.cpus, first.gpus, first.worker) == (1, 2, 1, labels[WORKER_LABEL])
    assert (second.number, second.host) == (2, os.uname().nodename)
    assert first.at < second.at
    assert known.next_scheduled_start_time is None
    retried = [state for state in station.states(run) if state["name"] == "AwaitingRetry"]
    assert station.time(retried[0]["state_details"]["scheduled_time"]) == known.expected_start_time


def test_memory_is_named_as_the_likely_cause_of_a_kill_that_nobody_owns_up_to(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)}, max_attempts=1)
    pids = read(out)["pids"]
    station.wait(run, "Running")
    os.kill(pids[0], signal.SIGKILL)
    assert "memory" in (station.wait(run, "Crashed").message or "")
    eventually(lambda: not any(map(is_alive, pids)))


def test_process_that_leaves_without_a_word_costs_an_attempt(station: Station, out: Path) -> None:
    run = station.submit("leave", parameters={"out": str(out), "code": 3}, max_attempts=2)
    state = station.wait(run, "Crashed")
    assert "exit code 3" in (state.message or "")
    assert len(read(out)) == 2


def test_sigterm_from_a_stranger_costs_an_attempt_and_saves(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)}, max_attempts=1)
    pids = read(out)["pids"]
    station.wait(run, "Running")
    os.kill(pids[0], signal.SIGTERM)
    station.wait(run, "Crashed")
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"


def test_exception_of_the_flow_fails_at_once(station: Station, out: Path) -> None:
    run = station.submit("fail", parameters={"out": str(out)})
    assert "it cannot be done" in (station.wait(run, "Failed").message or "")
    assert len(read(out)) == 1
    assert CRASHES_LABEL not in station.labels(run)


def test_run_finds_its_attempt_and_the_grace_in_its_environment(
    station: Station, worker: Process, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    run = station.submit("report", parameters={"out": str(out)})
    found = read(out)["env"]
    assert found["TRAINYARD_ATTEMPT"] == "1"
    assert float(found["TRAINYARD_STOP_GRACE_S"]) == 10
    spool = Path(found["TRAINYARD_LOG_SPOOL"])
    assert spool.name == f"{run.id}.log"
    station.wait(run, "Completed")
    eventually(lambda: not spool.exists())
    labels = eventually(lambda: (found := station.labels(run))[OWNER_LABEL] == "" and found)
    assert len(read_attempts(labels)) == 1


def test_a_server_out_of_the_reach_of_a_process_costs_no_attempt(station: Station, out: Path) -> None:
    nobody = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    run = station.submit("hold", parameters={"out": str(out)}, max_attempts=1, env=nobody)
    eventually(lambda: len(read_attempts(station.labels(run))) >= 2)
    assert "Scheduled: The Prefect server was away." in station.history(run)
    assert CRASHES_LABEL not in station.labels(run)
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    assert not out.exists()


def test_a_process_whose_run_is_over_does_not_wait_for_a_server_that_is_away(
    station: Station, worker: Process, out: Path
) -> None:
    port = urlsplit(station.environment["PREFECT_API_URL"]).port
    assert port is not None
    wire = Wire(port)
    try:
        url = f"http://127.0.0.1:{wire.port}/api"
        run = station.submit("end_slowly", parameters={"out": str(out)}, env={"PREFECT_API_URL": url})
        (pid,) = read(out)["pids"]
        station.wait(run, "Completed")
        wire.cut()
        out.unlink()
        eventually(lambda: not is_alive(pid), 12)
    finally:
        wire.close()
    assert station.state(run).name == "Completed"

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from prefect.client.schemas.objects import FlowRun
from station import Station, eventually, is_alive, read


def test_sigterm_of_the_worker_reschedules_its_runs_and_leaves_no_process(station: Station, tmp_path: Path) -> None:
    pool = "ends"
    worker = station.start_worker(pool, cpus="1")
    family = psutil.Process(worker.popen.pid).children(recursive=True)
    out = tmp_path / "out"
    run = station.submit("hold", pool, {"out": str(out), "save_s": 0.3})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    queued = station.submit("hold", pool, {"out": str(tmp_path / "queued")})
    station.wait(queued, "Pending")

    assert worker.stop() == 0

    assert station.state(run).name == "AwaitingRetry"
    assert station.state(queued).name == "Scheduled"
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"
    assert not any(map(is_alive, [*pids, *(process.pid for process in family)]))

    out.unlink()
    again = station.start_worker(pool, cpus="1")
    read(out)
    assert eventually(lambda: station.client.read_flow_run(run.id).run_count == 2)
    again.stop()


def test_sigkill_of_the_worker_leaves_no_process_and_no_running_run(station: Station, tmp_path: Path) -> None:
    pool = "dies"
    worker = station.start_worker(pool, cpus="1")
    out = tmp_path / "out"
    run = station.submit("hold", pool, {"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    queued = station.submit("hold", pool, {"out": str(tmp_path / "queued")})
    station.wait(queued, "Pending")
    family = psutil.Process(worker.popen.pid).children(recursive=True)

    worker.stop(signal.SIGKILL)

    station.wait(run, "AwaitingRetry")
    eventually(lambda: not any(map(is_alive, [*pids, *(process.pid for process in family)])))
    assert station.state(queued).name == "Pending"

    out.unlink()
    again = station.start_worker(pool, cpus="1")
    # The one that only waited had no process to notice the end of its worker; the next worker does.
    read(out)
    assert "died" in _history(station, queued)
    again.stop()


def test_sigkill_of_the_forkserver_crashes_its_runs_and_the_next_run_gets_a_new_one(
    station: Station, tmp_path: Path
) -> None:
    pool = "reborn"
    worker = station.start_worker(pool, cpus="1", preload="prefect.flow_engine")
    out = tmp_path / "out"
    run = station.submit("hold", pool, {"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    (forkserver,) = psutil.Process(worker.popen.pid).children()
    os.kill(forkserver.pid, signal.SIGKILL)
    assert "SIGKILL" in (station.wait(run, "Crashed").message or "")
    eventually(lambda: not any(map(is_alive, pids)))

    station.wait(station.submit("talk", pool, {"lines": 1}), "Completed")
    worker.stop()


def _history(station: Station, run: FlowRun) -> str:
    states = station.client.request("GET", "/flow_run_states/", params={"flow_run_id": str(run.id)}).json()
    return " ".join(state["message"] or "" for state in states)

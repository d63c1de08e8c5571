from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
from station import Station, eventually, is_alive, read, read_again


def test_sigterm_of_the_worker_reschedules_its_runs_and_leaves_no_process(station: Station, tmp_path: Path) -> None:
    pool = "ends"
    worker = station.start_worker(pool, cpus="1")
    family = psutil.Process(worker.popen.pid).children(recursive=True)
    out = tmp_path / "out"
    run = station.submit("hold", pool, {"out": str(out), "save_s": 0.3})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    queued = station.submit("hold", pool, {"out": str(tmp_path / "queued")})

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
    family = psutil.Process(worker.popen.pid).children(recursive=True)

    worker.stop(signal.SIGKILL)

    station.wait(run, "AwaitingRetry")
    eventually(lambda: not any(map(is_alive, [*pids, *(process.pid for process in family)])))
    assert station.client.read_flow_run(run.id).infrastructure_pid == ""

    out.unlink()
    again = station.start_worker(pool, cpus="1")
    read(out)
    again.stop()


def test_sigkill_of_the_forkserver_costs_its_runs_an_attempt_and_the_next_process_comes_from_a_new_one(
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
    eventually(lambda: not any(map(is_alive, pids)))
    assert read_again(out, pids) != pids
    assert "SIGKILL" in station.history(run)
    worker.stop()

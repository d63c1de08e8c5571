from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prefect.states import Cancelled, Cancelling, Scheduled
from station import Process, Station, eventually, is_alive, read

pytestmark = pytest.mark.usefixtures("worker")


def test_run_starts_warm_in_a_process_of_its_own(station: Station, worker: Process, out: Path) -> None:
    run = station.submit("report", parameters={"out": str(out)}, cpus=2, gpus=1, env={"ANSWER": "42"})
    station.wait(run, "Completed")
    found = read(out)
    assert found["session"] == found["pid"]
    assert found["env"]["ANSWER"] == "42"
    assert found["env"]["PREFECT_API_URL"] == station.environment["PREFECT_API_URL"]
    assert found["env"]["TRAINYARD_WORKER_CPUS"] == "2"
    assert found["env"]["CUDA_VISIBLE_DEVICES"] in ("7", "9")
    assert found["threads"] == 2
    assert Path(found["cwd"]).name == str(run.id)
    assert Path(found["cwd"]).parent.parent == station.home / "scratch"
    eventually(lambda: not Path(found["cwd"]).exists())
    assert station.client.read_flow_run(run.id).infrastructure_pid == str(found["pid"])
    assert worker.popen.poll() is None


def test_runs_do_not_share_random_numbers(station: Station, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        station.submit("report", parameters={"out": str(out)})
    first, second = map(read, outs)
    assert all(one != other for one, other in zip(first["random"], second["random"], strict=True))
    assert first["threads"] == 1


def test_a_run_gets_one_gpu_or_what_it_asks_for(station: Station, tmp_path: Path) -> None:
    demands = {"one": {}, "none": {"gpus": 0}, "all": {"gpus_up_to": 8}}
    seen = {}
    for name, demand in demands.items():
        station.submit("report", parameters={"out": str(tmp_path / name)}, **demand)
        seen[name] = read(tmp_path / name)["env"]["CUDA_VISIBLE_DEVICES"]
    assert seen["one"] in ("7", "9")
    assert seen["none"] == ""
    assert seen["all"] == "7,9"


def test_cancel_saves_then_kills_grandchildren(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out), "save_s": 0.5})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"
    eventually(lambda: not any(map(is_alive, pids)))


def test_cancel_lets_a_flow_with_loader_processes_save_in_peace(station: Station, out: Path) -> None:
    run = station.submit("hold_with_loader", parameters={"out": str(out)})
    read(out)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"


def test_cancel_of_a_flow_that_ignores_it_kills_after_the_grace(station: Station, out: Path) -> None:
    station.start_worker("impatient", grace_s="0.5", preload="prefect.flow_engine")
    run = station.submit("ignore_sigterm", "impatient", {"out": str(out)})
    (pid,) = read(out)["pids"]
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("wait_for", ["Scheduled", "Pending", "Running"])
def test_cancel_at_any_moment_ends_cancelled(station: Station, out: Path, wait_for: str) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    eventually(lambda: wait_for == "Scheduled" or station.state(run).name in (wait_for, "Running"))
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")


def test_hooks_run_though_the_worker_never_imports_the_flow(station: Station, tmp_path: Path) -> None:
    cancelled, crashed = tmp_path / "cancelled", tmp_path / "crashed"
    first = station.submit("with_hooks", parameters={"out": str(cancelled)})
    station.submit("with_hooks", parameters={"out": str(crashed)}, max_attempts=1)
    read(cancelled)
    station.wait(first, "Running")
    station.client.set_flow_run_state(first.id, Cancelling())
    os.kill(read(crashed)["pids"][0], signal.SIGKILL)
    assert read(Path(f"{cancelled}.hook"))["state"] == "Cancelling"
    assert read(Path(f"{crashed}.hook"))["state"] == "Crashed"


def test_slots_are_honoured_in_order_and_gpus_are_assigned(station: Station, tmp_path: Path) -> None:
    outs = [tmp_path / name for name in "abcd"]
    submit = [
        lambda out, demand=demand: station.submit("hold", parameters={"out": str(out)}, **demand)
        for demand in ({"cpus": 1, "gpus": 2}, {"cpus": 1, "gpus": 1}, {"cpus": 1}, {"cpus": 1})
    ]
    both_gpus = submit[0](outs[0])
    assert read(outs[0])["cuda"] == "7,9"
    one_gpu, behind, dropped = submit[1](outs[1]), submit[2](outs[2]), submit[3](outs[3])
    station.client.set_flow_run_state(dropped.id, Cancelling())
    station.wait(dropped, "Cancelled")
    assert [station.state(run).name for run in (one_gpu, behind)] == ["Scheduled", "Scheduled"]

    station.client.set_flow_run_state(both_gpus.id, Cancelling())
    assert read(outs[1])["cuda"] == "7"
    read(outs[2])
    assert not outs[3].exists()
    for run in (one_gpu, behind):
        station.wait(run, "Running")
        station.client.set_flow_run_state(run.id, Cancelling())
        station.wait(run, "Cancelled")


def test_run_that_can_never_fit_fails_at_once(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)}, cpus=1, gpus=3)
    state = station.wait(run, "Failed")
    assert "asks for 1 CPU and 3 GPUs, but the worker has 2 CPUs and 2 GPUs" in (state.message or "")


def test_loader_processes_work_inside_a_run(station: Station, out: Path) -> None:
    run = station.submit("load", parameters={"out": str(out)})
    station.wait(run, "Completed")
    assert read(out)["sum"] == 499_500


def test_every_log_line_arrives(station: Station) -> None:
    run = station.submit("talk", parameters={"lines": 1000})
    station.wait(run, "Completed")
    expected = [f"line {number}" for number in range(1000)]

    def all_there() -> bool:
        return [log.message for log in station.logs(run) if log.message.startswith("line ")] == expected

    eventually(all_there)


def test_cancelled_run_can_be_scheduled_again_under_its_id(station: Station, out: Path) -> None:
    run = station.submit("hold", parameters={"out": str(out)})
    read(out)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    out.unlink()
    station.client.set_flow_run_state(run.id, Scheduled(), force=True)
    read(out)
    eventually(lambda: station.client.read_flow_run(run.id).run_count == 2)
    station.client.set_flow_run_state(run.id, Cancelled(), force=True)
    station.client.set_flow_run_state(run.id, Cancelling(), force=True)
    station.wait(run, "Cancelled")

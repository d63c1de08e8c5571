"""Runs of workers that are gone: found by their processes on this machine, by heartbeats on others."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Completed, Pending, Running, Scheduled
from prefect_trainyard.deployments import handover
from prefect_trainyard.deployments.ends import Loss, settle
from prefect_trainyard.deployments.handover import Reaper
from prefect_trainyard.deployments.prefect_runs import PrefectRuns
from prefect_trainyard.deployments.processes import OWNER_VARIABLE, leftovers, this_machine, this_process
from prefect_trainyard.deployments.scratch import Scratch, sweep
from prefect_trainyard.deployments.warm_worker import TrainyardWorker
from prefect_trainyard.schemas.attempts import CRASHES_LABEL, OWNER_LABEL, WORKER_LABEL
from station import Station, eventually, is_alive, read

#: The start time is that of no process.
DEAD = f"{this_machine()} 1:1"


@pytest.fixture
def pool(station: Station) -> str:
    """A pool without a worker, so that nobody else looks after its runs."""
    name = f"lost-{uuid.uuid4()}"
    station.client.create_work_pool(WorkPoolCreate(name=name, type=TrainyardWorker.type))
    return name


@pytest.fixture
def look(station: Station, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let a reaper look once; it is the same one each time."""
    monkeypatch.setattr(handover, "_FRESH_S", 0.0)
    with asyncio.Runner() as runner:
        reaper = Reaper(station.environment["PREFECT_API_URL"], None, pool, scratch=tmp_path / "scratch")
        yield lambda: runner.run(reaper.look())
        runner.run(reaper.close())


def make(station: Station, pool: str, state: State[Any], labels: dict[str, Any]) -> FlowRun:
    run = station.submit("hold", pool, {"out": "nowhere"})
    for each in (Running(), state):  # what is queued is cancelled at once
        station.client.set_flow_run_state(run.id, each, force=True)
    station.set_labels(run, labels)
    station.client.request("PATCH", f"/flow_runs/{run.id}", json={"infrastructure_pid": "1"})  # type: ignore[arg-type]
    return run


def test_run_of_a_dead_process_is_given_back_and_counted(station: Station, pool: str, look: Callable[[], None]) -> None:
    lost = make(station, pool, Running(), {OWNER_LABEL: DEAD})
    taken = make(station, pool, Pending(), {OWNER_LABEL: DEAD, CRASHES_LABEL: 1})
    last = make(station, pool, Running(), {OWNER_LABEL: DEAD, CRASHES_LABEL: 2})
    ours = make(station, pool, Running(), {OWNER_LABEL: this_process(this_machine())})
    strange = make(station, pool, Running(), {})
    look()
    assert [station.state(run).name for run in (lost, taken)] == ["AwaitingRetry", "AwaitingRetry"]
    assert [station.labels(run)[CRASHES_LABEL] for run in (lost, taken, last)] == [1, 2, 3]
    assert station.labels(lost)[OWNER_LABEL] == ""
    assert station.client.read_flow_run(lost.id).infrastructure_pid == ""
    assert station.state(last).name == "Crashed"
    assert "The worker of this run died. It was failed attempt 3 of 3" in (station.state(last).message or "")
    assert [station.state(run).name for run in (ours, strange)] == ["Running", "Running"]


@pytest.mark.parametrize(
    ("name", "expected"), [("Cancelling", "Cancelled"), ("Pausing", "Suspended"), ("TimingOut", "TimedOut")]
)
def test_stop_of_a_run_whose_worker_is_dead_ends_by_its_name(
    station: Station, pool: str, look: Callable[[], None], name: str, expected: str
) -> None:
    run = make(station, pool, State(type=StateType.CANCELLING, name=name), {OWNER_LABEL: DEAD})
    look()
    assert station.state(run).name == expected
    assert CRASHES_LABEL not in station.labels(run)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (State(type=StateType.CANCELLING, name="Pausing"), "Suspended"),
        (State(type=StateType.CANCELLING, name="Cancelling"), "Cancelled"),
        (Completed(message="Well done."), "Completed"),
    ],
)
def test_what_happens_to_a_run_while_it_is_given_back_is_not_lost(
    station: Station, pool: str, between: State[Any], expected: str
) -> None:
    """Prefect looks at a state in one transaction and replaces it in another."""
    run = make(station, pool, Running(), {OWNER_LABEL: DEAD})

    class LateRuns(PrefectRuns):
        is_late = True

        async def _call(self, method: str, path: str, body: Any = None) -> httpx.Response:
            if path == "/flow_runs/bulk_set_state" and self.is_late:
                self.is_late = False
                station.client.set_flow_run_state(run.id, between, force=True)
                body = {**body, "flow_runs": {"id": body["flow_runs"]["id"]}}
            return await super()._call(method, path, body)

    async def give_back() -> None:
        runs = LateRuns(station.environment["PREFECT_API_URL"])
        try:
            await settle(runs, await runs.read(run.id), Loss(cause="The worker of this run died."))
        finally:
            await runs.close()

    asyncio.run(give_back())
    assert station.state(run).name == expected
    assert station.labels(run)[OWNER_LABEL] == ""
    assert CRASHES_LABEL not in station.labels(run)


def test_a_run_that_is_paused_while_a_worker_takes_it_stays_paused(station: Station, pool: str) -> None:
    run = station.submit("hold", pool, {"out": "nowhere"})
    suspended = State[Any](type=StateType.PAUSED, name="Suspended", state_details={"pause_reschedule": True})

    async def take(between: State[Any] | None) -> bool:
        runs = PrefectRuns(station.environment["PREFECT_API_URL"])
        try:
            if between is not None:
                station.client.set_flow_run_state(run.id, between, force=True)
            taken = station.client.set_flow_run_state(run.id, Pending(), force=True)
            assert taken.state is not None
            return await runs.confirm_taken(run.id, str(taken.state.id))
        finally:
            await runs.close()

    assert not asyncio.run(take(suspended))
    assert station.state(run).name == "Suspended"
    station.client.set_flow_run_state(run.id, Scheduled(), force=True)
    assert asyncio.run(take(None))
    assert station.state(run).name == "Pending"


def test_worker_of_another_machine_is_lost_when_the_server_has_not_heard_of_it(
    station: Station, pool: str, look: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = make(station, pool, Running(), {OWNER_LABEL: "elsewhere 1:1", WORKER_LABEL: "silent"})
    lively = make(station, pool, Running(), {OWNER_LABEL: "elsewhere 2:2", WORKER_LABEL: "lively"})
    station.beat("silent", pool)
    look()
    assert station.state(silent).name == "Running"
    # Two seconds, since the server tells its time in whole ones.
    monkeypatch.setattr(handover, "LOST_AFTER_S", 2.0)

    def is_given_back() -> bool:
        station.beat("lively", pool)
        look()
        return station.state(silent).name == "AwaitingRetry"

    eventually(is_given_back)
    assert "'silent'" in (station.state(silent).message or "")
    assert station.state(lively).name == "Running"


def test_reaper_that_has_just_found_the_server_believes_no_old_heartbeat(
    station: Station, pool: str, look: Callable[[], None]
) -> None:
    run = make(station, pool, Running(), {OWNER_LABEL: "elsewhere 1:1", WORKER_LABEL: "never heard of"})
    look()
    assert station.state(run).name == "Running"


def test_run_that_was_taken_but_never_started_is_given_back(
    station: Station, pool: str, look: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    never = make(station, pool, Pending(), {})
    released = make(station, pool, Running(), {OWNER_LABEL: ""})
    look()
    assert station.state(never).name == "Pending"
    monkeypatch.setattr(handover, "UNOWNED_S", 0.0)
    look()
    assert station.state(never).name == "Scheduled"
    assert CRASHES_LABEL not in station.labels(never)
    assert station.state(released).name == "AwaitingRetry"


def test_server_that_is_away_is_no_reason_to_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "_PATIENCE_S", 0.1)

    async def look() -> None:
        reaper = Reaper("http://127.0.0.1:1/api", None, f"none-{uuid.uuid4()}", scratch=tmp_path)
        await reaper.look()
        await reaper.close()

    asyncio.run(look())


def test_nothing_of_a_dead_worker_lives_when_its_run_is_given_back(
    station: Station, pool: str, look: Callable[[], None]
) -> None:
    run = make(station, pool, Running(), {OWNER_LABEL: DEAD})
    child = subprocess.Popen(
        [sys.executable, "-c", "import os, time; os.fork(); time.sleep(300)"],
        env=os.environ | {OWNER_VARIABLE: DEAD},
        start_new_session=True,
    )
    try:
        eventually(lambda: len(leftovers(DEAD)) == 2)
        eventually(lambda: (look(), station.state(run).name)[1] == "AwaitingRetry")
        assert child.wait(10) == -signal.SIGKILL
        assert leftovers(DEAD) == []
    finally:
        child.kill()


def test_worker_and_forkserver_killed_at_once_leave_nothing(station: Station, tmp_path: Path) -> None:
    """Nobody is left to give the run back; the next worker on the machine does."""
    import psutil

    pool_name = "both"
    worker = station.start_worker(pool_name, cpus="1", preload="prefect.flow_engine")
    out = tmp_path / "out"
    run = station.submit("hold", pool_name, {"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    (forkserver,) = psutil.Process(worker.popen.pid).children()
    for pid in (forkserver.pid, worker.popen.pid):
        os.kill(pid, signal.SIGKILL)
    worker.popen.wait()
    out.unlink()
    again = station.start_worker(pool_name, cpus="1", preload="prefect.flow_engine")
    assert read(out)["pids"] != pids
    assert not any(map(is_alive, pids))
    assert station.labels(run)[CRASHES_LABEL] == 1
    again.stop()


def test_folders_of_dead_workers_are_swept_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    dead = Scratch(tmp_path, DEAD)
    dead.open()
    run_id = uuid.uuid4()
    dead.spool(run_id).mkdir()
    dead.working_folder(run_id).mkdir()
    alive = Scratch(tmp_path, f"{this_machine()} 2:2")
    alive.open()
    asyncio.run(sweep(tmp_path))
    assert dead.spool(run_id).exists(), "its lock is still held"
    dead._lock = os.close(dead._lock or 0)  # as the kernel does
    asyncio.run(sweep(tmp_path))
    assert list(tmp_path.iterdir()) == [alive.spool(run_id).parent]
    alive.close()
    assert list(tmp_path.iterdir()) == []

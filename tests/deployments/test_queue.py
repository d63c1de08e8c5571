"""Runs wait in Prefect's queue until some worker has room for them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Cancelling, Scheduled
from prefect_trainyard.deployments.warm_worker import TrainyardWorker
from prefect_trainyard.schemas.attempts import WORKER_LABEL, Priority
from station import Process, Station, eventually, read


def start(station: Station, pool: str, **settings: str) -> Process:
    return station.start_worker(pool, preload="prefect.flow_engine", gpus="0", **settings)


def cancel(station: Station, *runs: FlowRun) -> None:
    for run in runs:
        station.client.set_flow_run_state(run.id, Cancelling())
    for run in runs:
        station.wait(run, "Cancelled")


def test_a_second_worker_takes_what_the_first_has_no_room_for(station: Station, tmp_path: Path) -> None:
    pool = "two"
    start(station, pool, cpus="1")
    runs = [station.submit("hold", pool, {"out": str(tmp_path / name)}) for name in "ab"]
    read(tmp_path / "a")
    assert station.state(runs[1]).name == "Scheduled"
    start(station, pool, cpus="1")
    read(tmp_path / "b")
    eventually(lambda: all(WORKER_LABEL in station.labels(run) for run in runs))
    first, second = (station.labels(run)[WORKER_LABEL] for run in runs)
    assert first != second
    cancel(station, *runs)


def test_priority_goes_before_age_and_age_before_arrival(station: Station, tmp_path: Path) -> None:
    pool = "ranks"
    station.client.create_work_pool(
        WorkPoolCreate(
            name=pool,
            type=TrainyardWorker.type,
            base_job_template=TrainyardWorker.get_default_base_job_template(),
        )
    )
    for priority in Priority:
        if priority.work_queue != "default":
            station.make_queue(pool, priority.work_queue, priority)
    start(station, pool, cpus="1")
    first = station.submit("hold", pool, {"out": str(tmp_path / "first")})
    read(tmp_path / "first")
    order = tmp_path / "order"

    def queue(name: str, priority: Priority, age_s: float) -> FlowRun:
        at = Scheduled(scheduled_time=station.later(-age_s))
        return station.submit("line_up", pool, {"out": str(order), "name": name}, state=at, queue=priority.work_queue)

    runs = [
        queue("low", Priority.LOW, 100),
        queue("young", Priority.NORMAL, 10),
        queue("old", Priority.NORMAL, 50),
        queue("high", Priority.HIGH, 5),
    ]
    all_are_there = datetime.now(UTC)

    def has_looked() -> bool:
        queues = station.client.read_work_queues(work_pool_name=pool)
        return all(one.last_polled is not None and one.last_polled > all_are_there for one in queues)

    eventually(has_looked)
    cancel(station, first)
    for run in runs:
        station.wait(run, "Completed")
    assert order.read_text().split() == ["high", "old", "young", "low"]


def test_run_that_leaves_the_queue_does_not_block_it(station: Station, tmp_path: Path) -> None:
    pool = "leavers"
    start(station, pool, cpus="2")
    busy = station.submit("hold", pool, {"out": str(tmp_path / "busy")}, cpus=1)
    read(tmp_path / "busy")
    large = station.submit("hold", pool, {"out": str(tmp_path / "large")}, cpus=2)
    small = station.submit("hold", pool, {"out": str(tmp_path / "small")}, cpus=1)
    # Set by force, as the facade does for runs whose time is over: no Cancelling comes first.
    station.client.set_flow_run_state(large.id, Cancelled(), force=True)
    read(tmp_path / "small")
    assert station.state(large).name == "Cancelled"
    cancel(station, busy, small)
    assert not (tmp_path / "large").exists()


def test_run_that_is_held_again_is_not_started(station: Station, tmp_path: Path) -> None:
    pool = "held"
    start(station, pool, cpus="1")
    busy = station.submit("hold", pool, {"out": str(tmp_path / "busy")})
    read(tmp_path / "busy")
    held = station.submit("hold", pool, {"out": str(tmp_path / "held")})
    last = station.submit("hold", pool, {"out": str(tmp_path / "last")})
    station.client.set_flow_run_state(held.id, Scheduled(name="AwaitingQuota", scheduled_time=station.later(86400)))
    cancel(station, busy)
    read(tmp_path / "last")
    assert station.state(held).name == "AwaitingQuota"
    cancel(station, last)


def test_run_that_only_a_larger_worker_can_have_waits_for_it(station: Station, tmp_path: Path) -> None:
    pool = "sizes"
    small = start(station, pool, cpus="1")
    start(station, pool, cpus="2")
    run = station.submit("hold", pool, {"out": str(tmp_path / "out")}, cpus=2)
    read(tmp_path / "out")
    cancel(station, run)

    impossible = station.submit("hold", pool, {"out": str(tmp_path / "never")}, cpus=3)
    message = station.wait(impossible, "Failed").message or ""
    assert "asks for 3 CPUs and 0 GPUs, but no worker has that much" in message
    assert "has 1 CPU and 0 GPUs" in message
    assert "has 2 CPUs and 0 GPUs" in message
    small.stop()

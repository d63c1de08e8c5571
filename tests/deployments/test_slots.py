from __future__ import annotations

import pytest
from prefect_trainyard.deployments.gpus import gpu_ids
from prefect_trainyard.deployments.slots import Demand, Slots, Ticket
from prefect_trainyard.deployments.worker_settings import WorkerSettings


def ask(slots: Slots, cpus: int, gpus: int = 0) -> Ticket:
    ticket = slots.take_ticket()
    slots.ask(ticket, Demand(cpus=cpus, gpus=gpus))
    return ticket


def test_large_run_is_not_overtaken_by_small_ones() -> None:
    slots = Slots(cpus=4, gpu_ids=())
    first = ask(slots, 3)
    large, small = ask(slots, 4), ask(slots, 1)
    assert not large.granted.is_set()
    assert not small.granted.is_set()
    slots.give_back(first)
    assert large.granted.is_set()
    assert not small.granted.is_set()
    slots.give_back(large)
    assert small.granted.is_set()


def test_place_in_the_queue_is_kept_while_the_demand_is_unknown() -> None:
    slots = Slots(cpus=1, gpu_ids=())
    early = slots.take_ticket()
    late = ask(slots, 1)
    assert not late.granted.is_set()
    slots.ask(early, Demand(cpus=1, gpus=0))
    assert early.granted.is_set()
    slots.give_back(early)
    assert late.granted.is_set()


def test_every_gpu_has_one_owner() -> None:
    slots = Slots(cpus=9, gpu_ids=("3", "5", "7"))
    one, two = ask(slots, 1, 1), ask(slots, 1, 2)
    assert {*one.gpu_ids, *two.gpu_ids} == {"3", "5", "7"}
    slots.give_back(two)
    slots.give_back(two)
    assert ask(slots, 1, 2).gpu_ids == ("5", "7")


def test_leaving_the_queue_lets_the_next_one_in() -> None:
    slots = Slots(cpus=2, gpu_ids=())
    ask(slots, 1)
    large, small = ask(slots, 2), ask(slots, 1)
    slots.give_back(large)
    assert small.granted.is_set()


def test_the_order_of_the_server_is_the_order_of_the_queue() -> None:
    slots = Slots(cpus=1, gpu_ids=())
    running = ask(slots, 1)
    first, second, late = ask(slots, 1), ask(slots, 1), ask(slots, 1)
    slots.order([late, second])
    for expected in (late, second, first):
        slots.give_back(running)
        assert [ticket for ticket in (first, second, late) if ticket.granted.is_set() and ticket.demand] == [expected]
        running = expected


def test_a_worker_runs_no_more_than_it_is_limited_to() -> None:
    slots = Slots(cpus=9, gpu_ids=(), runs=1)
    first, second = ask(slots, 1), ask(slots, 1)
    assert not second.granted.is_set()
    slots.give_back(first)
    assert second.granted.is_set()


def test_more_than_there_is_never_fits() -> None:
    slots = Slots(cpus=2, gpu_ids=("0",))
    assert slots.fits(Demand(cpus=2, gpus=1))
    assert not slots.fits(Demand(cpus=3, gpus=0))
    assert not slots.fits(Demand(cpus=1, gpus=2))


@pytest.mark.parametrize(
    ("setting", "visible", "expected"),
    [
        ("0", None, ()),
        ("0,", None, ("0",)),
        ("0,2", None, ("0", "2")),
        ("auto", "1,3", ("1", "3")),
        ("auto", "", ()),
        ("auto", "-1", ()),
        ("GPU-1a,MIG-2b", None, ("GPU-1a", "MIG-2b")),
    ],
)
def test_gpus_follow_the_setting(
    monkeypatch: pytest.MonkeyPatch, setting: str, visible: str | None, expected: tuple[str, ...]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_ids(setting) == expected


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WorkerSettings().cpus >= 1
    monkeypatch.setenv("TRAINYARD_WORKER_CPUS", "7")
    monkeypatch.setenv("TRAINYARD_WORKER_PRELOAD", "json, csv,")
    settings = WorkerSettings()
    assert settings.cpus == 7
    assert settings.preload == ["json", "csv"]


def test_a_run_that_only_waits_for_others_takes_nothing() -> None:
    slots = Slots(cpus=1, gpu_ids=(), runs=1)
    working, waiting, next_one = (slots.take_ticket() for _ in range(3))
    slots.ask(working, Demand(cpus=1, gpus=0))
    slots.ask(waiting, Demand(cpus=0, gpus=0))
    slots.ask(next_one, Demand(cpus=1, gpus=0))
    assert working.granted.is_set() and waiting.granted.is_set() and not next_one.granted.is_set()
    slots.give_back(waiting)
    assert not next_one.granted.is_set()
    slots.give_back(working)
    assert next_one.granted.is_set()

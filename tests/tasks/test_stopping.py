from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect._flow_run_suspension import mark_flow_run_suspension_requested
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Suspended
from prefect_trainyard.tasks.stopping import StopRequest


class Terminated(BaseException):
    pass


@pytest.fixture(autouse=True)
def _prefect_like_handler() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    yield
    signal.signal(signal.SIGTERM, before)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_who_never_asks_is_interrupted_at_once() -> None:
    stop = StopRequest()
    with stop.installed(), pytest.raises(Terminated):
        terminate()


def test_who_asks_is_told_and_interrupted_when_it_is_ready() -> None:
    stop = StopRequest()
    with stop.installed():
        assert not stop.is_requested()
        terminate()
        terminate()
        assert stop.is_requested()
        with pytest.raises(Terminated):
            stop.allow_interruption()
        # why: what was interrupted is being saved, and a second signal must not end that.
        terminate()


def test_who_no_longer_asks_is_interrupted_at_once() -> None:
    stop = StopRequest()
    with stop.installed():
        assert not stop.is_requested()
        stop.allow_interruption()
        with pytest.raises(Terminated):
            terminate()


def test_who_takes_too_long_is_interrupted_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_STOP_GRACE_S", "0.2")
    stop = StopRequest()
    with stop.installed():
        stop.is_requested()
        terminate()
        with pytest.raises(Terminated):
            time.sleep(30)


def test_the_handler_that_was_there_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest().installed():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_of_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        stop = StopRequest()
        with stop.installed():
            seen.append(signal.getsignal(signal.SIGTERM))
            assert not stop.is_requested()
            stop.allow_interruption()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@flow
def suspended_by_a_person() -> str:
    stop = StopRequest()
    assert not stop.is_requested()
    run = FlowRunContext.get()
    assert run is not None
    assert run.flow_run is not None
    assert mark_flow_run_suspension_requested(run.flow_run.id, Suspended())
    assert stop.is_requested()
    try:
        stop.allow_interruption()
    except Pause:
        return "paused"
    return "went on"


def test_a_run_that_is_suspended_in_prefect_is_asked_to_stop() -> None:
    # What Prefect does with a suspended run that has ended.
    with contextlib.suppress(Pause):
        assert suspended_by_a_person() == "paused"

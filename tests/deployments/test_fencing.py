"""A worker that the server has not heard of for long may have lost its runs to another machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from prefect.states import Cancelling
from prefect_trainyard.deployments.fencing import is_far
from prefect_trainyard.schemas.attempts import OWNER_LABEL
from station import Station, Wire, eventually, is_alive, read

POOL = "fenced"


@pytest.fixture(scope="module")
def wire(station: Station) -> Iterator[Wire]:
    """The only way from one worker to the server."""
    port = urlsplit(station.environment["PREFECT_API_URL"]).port
    assert port is not None
    wire = Wire(port)
    url = f"http://127.0.0.1:{wire.port}/api"
    worker = station.start_worker(POOL, api_url=url, fence="true", fence_after_s="1", preload="prefect.flow_engine")
    try:
        yield wire
    finally:
        worker.stop(signal.SIGKILL)
        wire.close()


def is_frozen(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_run_freezes_while_the_server_is_out_of_reach_and_goes_on_after(
    station: Station, wire: Wire, out: Path
) -> None:
    run = station.submit("hold", POOL, {"out": str(out)})
    leader, inside, _ = read(out)["pids"]
    station.wait(run, "Running")
    wire.cut()
    eventually(lambda: is_frozen(leader) and is_frozen(inside))
    wire.mend()
    eventually(lambda: not is_frozen(leader) and not is_frozen(inside))
    assert station.state(run).name == "Running"
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")
    assert read(Path(f"{out}.saved"))["reason"] == "TerminationSignal"


def test_run_that_others_have_by_then_is_killed_and_its_state_left_alone(
    station: Station, wire: Wire, out: Path
) -> None:
    run = station.submit("hold", POOL, {"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    wire.cut()
    eventually(lambda: is_frozen(pids[0]))
    station.set_labels(run, {OWNER_LABEL: "elsewhere 1:1"})
    wire.mend()
    eventually(lambda: not any(map(is_alive, pids)))
    assert not Path(f"{out}.saved").exists()
    done = station.submit("talk", POOL, {"lines": 1})
    station.wait(done, "Completed")
    assert station.state(run).name == "Running"
    assert station.labels(run)[OWNER_LABEL] == "elsewhere 1:1"


def test_run_that_is_killed_while_the_server_is_out_of_reach_is_retried_after(
    station: Station, wire: Wire, out: Path
) -> None:
    run = station.submit("hold", POOL, {"out": str(out)})
    pids = read(out)["pids"]
    station.wait(run, "Running")
    wire.cut()
    os.kill(pids[0], signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, pids)))
    out.unlink()
    wire.mend()
    read(out)
    assert "-9 (SIGKILL)" in station.history(run)
    station.wait(run, "Running")
    station.client.set_flow_run_state(run.id, Cancelling())
    station.wait(run, "Cancelled")


@pytest.mark.parametrize(
    ("url", "far"),
    [
        ("http://127.0.0.1:4200/api", False),
        ("http://localhost:4200/api", False),
        ("http://[::1]:4200/api", False),
        ("http://10.0.0.7:4200/api", True),
        ("https://prefect.example.org/api", True),
    ],
)
def test_only_a_server_on_another_machine_can_be_cut_off(url: str, far: bool) -> None:
    assert is_far(url) is far

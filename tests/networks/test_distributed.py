from __future__ import annotations

import os
import signal
import time
from typing import Any

import psutil
import pytest
import torch
from prefect_trainyard.networks.distributed import launch
from prefect_trainyard.networks.ranks import Ranks
from prefect_trainyard.schemas.errors import DatasetError, JobFailed
from torch import distributed

pytestmark = pytest.mark.slow

# why: the ranks are fresh interpreters that find these functions by the path of this file.
TARGET = "test_distributed"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def add(arguments: dict[str, Any], reporter: Any, ranks: Ranks) -> dict[str, Any]:
    total = ranks.sum(torch.tensor([float(ranks.rank + arguments["base"])]))
    reporter.log(f"rank {ranks.rank}")
    reporter.epoch(1, 2, {"loss": 0.5}, 1.0)
    return {"total": float(total), "gathered": ranks.gather(ranks.rank), "decided": ranks.decide(ranks.rank + 5)}


def fail(arguments: dict[str, Any], reporter: Any, ranks: Ranks) -> dict[str, Any]:
    if ranks.rank == 1:
        raise DatasetError("The second process found nothing.", hint="Look again.")
    distributed.barrier()
    return {}


def die(arguments: dict[str, Any], reporter: Any, ranks: Ranks) -> dict[str, Any]:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
    return {}


def wait(arguments: dict[str, Any], reporter: Any, ranks: Ranks) -> dict[str, Any]:
    reporter.log("waiting")
    while not ranks.decide(int(reporter.stop_requested())):
        time.sleep(0.05)
    return {"stopped": True}


def test_ranks_work_together_and_the_first_one_reports(recorder: Any) -> None:
    result = launch(f"{TARGET}:add", {"base": 10}, 2, recorder)
    assert result == {"total": 21.0, "gathered": [0, 1], "decided": 5}
    assert recorder.lines == ["rank 0"]
    assert recorder.epochs == [(1, {"loss": 0.5})]


def test_an_error_of_any_rank_arrives_as_it_is(recorder: Any) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(DatasetError, match="found nothing") as failure:
        launch(f"{TARGET}:fail", {}, 2, recorder)
    assert failure.value.hint == "Look again."
    assert not set(psutil.Process().children(recursive=True)) - before


def test_a_rank_that_is_killed_ends_the_job(recorder: Any) -> None:
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(JobFailed, match=r"process \d of 2 ended with exit code"):
        launch(f"{TARGET}:die", {}, 2, recorder)
    assert not set(psutil.Process().children(recursive=True)) - before


def test_a_stop_reaches_all_ranks(make_recorder: Any) -> None:
    assert launch(f"{TARGET}:wait", {}, 2, make_recorder(lambda r: bool(r.lines))) == {"stopped": True}


class Termination(BaseException):
    pass


def test_no_rank_outlives_a_job_that_is_torn_down(make_recorder: Any) -> None:
    before = set(psutil.Process().children(recursive=True))

    def tear_down(recorder: Any) -> bool:
        if recorder.lines:
            raise Termination
        return False

    with pytest.raises(Termination):
        launch(f"{TARGET}:wait", {}, 2, make_recorder(tear_down))
    assert not set(psutil.Process().children(recursive=True)) - before

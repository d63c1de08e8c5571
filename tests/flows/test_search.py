"""Searches over functions and tasks of one's own, with a Prefect server and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from prefect import flow, task
from prefect.testing.utilities import prefect_test_harness
from prefect_trainyard.flows.search import SearchResult, TrialTask, search
from prefect_trainyard.schemas.errors import InvalidInput, JobFailed
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.trials import Metric

SPACE = {"x": FloatDistribution(-1, 1), "kind": CategoricalDistribution(["good", "bad"])}


@pytest.fixture(scope="module", autouse=True)
def prefect_alone() -> Iterator[None]:
    with prefect_test_harness():
        yield


def run(objective: Any, folder: Path, **more: Any) -> SearchResult:
    settings = SweepSettings(**{"algorithm": "tpe", "max_trials": 8, "max_concurrent": 2, **more.pop("settings", {})})

    @flow
    def own() -> SearchResult:
        return search(objective, SPACE, folder=folder, settings=settings, **more)

    return own()


def value(trial: TrialTask) -> float:
    return (trial.params["kind"] == "good") - abs(trial.params["x"])


@pytest.mark.parametrize("objective", [value, task(name="value")(value)], ids=["function", "task"])
def test_functions_and_tasks_are_searched_alike(objective: Any, tmp_path: Path) -> None:
    found = run(objective, tmp_path, start={"x": 0.5, "kind": "good"})
    assert found.trials[0].specs == {"x": 0.5, "kind": "good"} and found.trials[0].result == 0.5
    assert found.best.result == max(trial.result or -9 for trial in found.trials) and len(found.trials) == 8
    again = run(objective, tmp_path, start={"x": 0.5, "kind": "good"}, settings={"max_trials": 10})
    assert [trial.specs for trial in again.trials[:8]] == [trial.specs for trial in found.trials]
    assert len(again.trials) == 10


def test_rungs_continue_in_the_folder_of_the_trial(tmp_path: Path) -> None:
    def grow(trial: TrialTask) -> float:
        seen = trial.folder / "epochs"
        before = seen.read_text() if seen.exists() else ""
        seen.write_text(f"{before}{trial.until_epoch} of {trial.max_epochs};")
        return value(trial)

    found = run(grow, tmp_path, settings={"algorithm": "asha", "max_epochs": 9, "max_trials": 9})
    for trial in found.trials:
        seen = (tmp_path / f"trial_{trial.id}/epochs").read_text()
        assert seen == "".join(f"{epochs} of 9;" for epochs in (1, 3, 9) if epochs <= trial.epochs)
    assert {trial.epochs for trial in found.trials} == {1, 3, 9}


def test_a_function_that_fails_is_a_failed_trial(tmp_path: Path) -> None:
    def picky(trial: TrialTask) -> float:
        if trial.number % 2:
            raise ValueError("an odd one")
        return value(trial)

    found = run(picky, tmp_path)
    assert [trial.status for trial in found.trials] == ["success", "failure"] * 4
    assert found.trials[1].message == "ValueError: an odd one"

    def impossible(trial: TrialTask) -> float:
        raise ValueError("never")

    with pytest.raises(JobFailed, match=r"None of 8 trials came to an end\. ValueError: never"):
        run(impossible, tmp_path / "impossible")


def test_several_metrics(tmp_path: Path) -> None:
    metrics = [Metric("value", True), Metric("size", False)]
    found = run(
        lambda trial: (value(trial), abs(trial.params["x"])), tmp_path, metrics=metrics, settings={"algorithm": "nsga2"}
    )
    assert set(found.best.results) == {"value", "size"}
    one = run(lambda trial: 1.0, tmp_path / "one", metrics=metrics[:1], settings={"max_trials": 1})
    assert one.best.result == 1.0
    with pytest.raises(JobFailed, match="1 values for 2 metrics"):
        run(lambda trial: [1.0], tmp_path / "few", metrics=metrics, settings={"algorithm": "nsga2"})


def test_an_empty_space_is_refused(tmp_path: Path) -> None:
    @flow
    def own() -> None:
        search(value, {}, folder=tmp_path)

    with pytest.raises(InvalidInput, match="empty"):
        own()

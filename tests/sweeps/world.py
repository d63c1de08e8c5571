"""A world in which training takes no time: what trials have done outlives whoever searches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.answers import Answer
from prefect_trainyard.sweeps.conduct import Report, conduct
from prefect_trainyard.sweeps.search import Search
from prefect_trainyard.sweeps.study import Study, open_storage
from prefect_trainyard.sweeps.trials import Metric, Trial

ACCURACY = Metric("accuracy", maximize=True)


class Killed(BaseException):
    """The process of the search is gone."""


class Plane:
    """A space of a learning rate and a choice; the best point is (0.01, "b")."""

    distributions: Mapping[str, BaseDistribution] = {
        "lr": FloatDistribution(1e-5, 1.0, log=True),
        "kind": CategoricalDistribution(["a", "b", "c"]),
    }

    def defaults(self) -> dict[str, Any]:
        return {"lr": 1e-4, "kind": "a"}

    def effective(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return dict(params)

    def grid(self) -> dict[str, list[Any]]:
        return {"lr": [1e-4, 1e-2], "kind": ["a", "b", "c"]}


def accuracy(params: Mapping[str, Any], epochs: int) -> float:
    bad = abs(math.log10(params["lr"]) + 2) / 4 + 0.2 * (params["kind"] != "b")
    return 1 - bad - 0.5 / (1 + epochs)


class World:
    """Takes the place of the flow runs: they are there whoever looks."""

    def __init__(self, fails: Callable[[int], bool] = lambda number: False) -> None:
        self.epochs: dict[int, list[int]] = {}
        """The epochs that each trial has trained, in order."""
        self.params: dict[int, dict[str, Any]] = {}
        self.ended: set[int] = set()
        self.fails = fails
        self.moments = 0
        self.kill_at: int | None = None

    def moment(self) -> None:
        """Pass a point at which the search can be killed."""
        self.moments += 1
        if self.moments == self.kill_at:
            raise Killed


class Trainer:
    """A `Runner` that has trained as soon as somebody waits."""

    def __init__(self, world: World, search: Search) -> None:
        self.world = world
        self.search = search
        self.started: dict[int, Trial] = {}

    def take_up(self) -> None:
        for trial in self.search.active:
            self.start(trial)

    def start(self, trial: Trial) -> None:
        self.world.moment()
        known = self.world.params.setdefault(trial.number, dict(trial.params))
        assert known == trial.params, "a trial has changed its parameters"
        self.world.epochs.setdefault(trial.number, [])
        self.world.moment()
        self.search.started(trial, f"run-{trial.number}")
        self.started[trial.number] = trial
        self.world.moment()

    def wait(self, timeout_s: float) -> Iterable[Report]:
        for trial in list(self.started.values()):
            self.world.moment()
            done = self.world.epochs[trial.number]
            done += range(len(done) + 1, trial.asked + 1)
            del self.started[trial.number]
            if self.world.fails(trial.number):
                yield Report(trial=trial, reason="it was to fail")
                continue
            value = accuracy(trial.params, trial.asked)
            answer = Answer(
                values=[value] * len(self.search.metrics),
                results={"accuracy": value},
                best_epoch=trial.asked,
                epochs=trial.asked,
                seconds=float(trial.asked),
            )
            yield Report(trial=trial, answer=answer)
            self.world.moment()

    def end(self, trial: Trial) -> None:
        self.world.ended.add(trial.number)

    @property
    def waiting(self) -> int:
        return 0


def open_search(
    folder: Path, settings: SweepSettings, epochs: int = 9, metrics: tuple[Metric, ...] = (ACCURACY,)
) -> Search:
    study = Study(open_storage(folder / "study.journal"), "sweep", metrics, Plane.distributions)
    return Search(study, Plane(), settings, metrics, epochs)


def live(folder: Path, settings: SweepSettings, world: World, epochs: int = 9) -> Search:
    """Search until the end, or until the world kills."""
    search = open_search(folder, settings, epochs)
    trainer = Trainer(world, search)
    trainer.take_up()
    conduct(search, trainer, is_stopping=lambda: False, tell=world.moment)
    return search

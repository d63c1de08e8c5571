"""How long it takes to propose the next trial when a sweep has had a thousand.

    python benchmarks/sweep_suggestions.py [--trials 1000] [--json FILE]

Six parameters of three kinds, a journal on the local disk. The time is all that the controller does for a new trial:
proposal, rows in the study. Beside it the same sampler of Optuna alone, in memory, as one asks it in a plain script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from prefect_trainyard.schemas.sweeps import Algorithm, SweepSettings
from prefect_trainyard.sweeps.samplers import make_sampler
from prefect_trainyard.sweeps.search import Search
from prefect_trainyard.sweeps.study import Study, open_storage
from prefect_trainyard.sweeps.trials import Metric
from rich.console import Console
from rich.table import Table

NUMBERS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "weight_decay": FloatDistribution(1e-6, 0.3, log=True),
    "smoothing": FloatDistribution(0, 0.2),
    "warmup": FloatDistribution(0, 3),
    "batch_size": IntDistribution(8, 256, log=True),
    "momentum": FloatDistribution(0, 0.99),
}
SPACE = {**NUMBERS, "optimizer": CategoricalDistribution(["adamw", "adam", "sgd"])}
LOSS = Metric("loss", maximize=False)
#: The last so many proposals are measured.
MEASURED = 20


class Space:
    def __init__(self, distributions: Mapping[str, BaseDistribution]) -> None:
        self.distributions = distributions

    def defaults(self) -> None:
        return None

    def effective(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return params

    def grid(self) -> dict[str, list[Any]]:
        return {name: [0.0] for name in self.distributions}


def loss(params: Mapping[str, Any]) -> float:
    return abs(params["lr"] - 0.003) + params["smoothing"] + params["momentum"] / params["batch_size"]


def ours(algorithm: Algorithm, trials: int, folder: Path) -> float:
    """Return the median seconds of a new trial after `trials` others."""
    distributions = NUMBERS if algorithm == "cmaes" else SPACE
    metrics = [LOSS, Metric("size", maximize=False)] if algorithm == "nsga2" else [LOSS]
    settings = SweepSettings(
        algorithm=algorithm, max_trials=trials + MEASURED, metrics=[m.name for m in metrics], max_epochs=1
    )
    study = Study(open_storage(folder / f"{algorithm}.journal"), algorithm, metrics, distributions)
    filler = optuna.create_study(directions=study.optuna.directions, sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(trials):
        trial = filler.ask(dict(distributions))
        filler.tell(trial, [loss(trial.params)] * len(metrics))
    study.learn_from("before", filler.get_trials(deepcopy=False))
    search = Search(study, Space(distributions), settings, metrics, epochs=1)
    seconds = []
    for _ in range(MEASURED):
        began = time.perf_counter()
        trial = search.next()
        seconds.append(time.perf_counter() - began)
        assert trial is not None
        values = [loss(trial.params)] * len(metrics)
        search.answered(trial, values, results={}, best_epoch=1, seconds=1.0)
    return statistics.median(seconds)


def alone(algorithm: Algorithm, trials: int) -> float:
    """Return the same of Optuna's own sampler in memory."""
    distributions = NUMBERS if algorithm == "cmaes" else SPACE
    count = 2 if algorithm == "nsga2" else 1
    study = optuna.create_study(directions=["minimize"] * count, sampler=optuna.samplers.RandomSampler(seed=1))
    seconds = []
    for number in range(trials + MEASURED):
        if number == trials:
            study.sampler = make_sampler(SweepSettings(algorithm=algorithm, max_trials=trials + MEASURED), 0, number)
        began = time.perf_counter()
        trial = study.ask(dict(distributions))
        if number >= trials:
            seconds.append(time.perf_counter() - began)
        study.tell(trial, [loss(trial.params)] * count)
    return statistics.median(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    algorithms = [name for name in get_args(Algorithm) if name not in ("grid", "hyperband", "asha")]
    with tempfile.TemporaryDirectory(prefix="trainyard-suggest-") as scratch:
        for trials in options.trials:
            folder = Path(scratch) / str(trials)
            folder.mkdir()
            for algorithm in algorithms:
                rows.append((algorithm, trials, ours(algorithm, trials, folder), alone(algorithm, trials)))
    table = Table("algorithm", "trials before", "new trial", "Optuna alone, in memory", title="Median of 20 proposals")
    for algorithm, trials, mine, theirs in rows:
        table.add_row(algorithm, str(trials), f"{1000 * mine:.1f} ms", f"{1000 * theirs:.1f} ms")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

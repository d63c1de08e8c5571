"""How many epochs Hyperband and ASHA save against random search that finds an equally good model.

The network of `examples/own_sweep.py` on the handwritten digits, one trial at a time, several seeds:

    python benchmarks/sweep_epochs.py [--seeds 1 2 3 4 5] [--json FILE]

For each seed the goal is the best accuracy of the poorer of the two searches; counted are the epochs that each has
trained when it first reaches the goal. Random search trains every trial for all 27 epochs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from pathlib import Path

from prefect import flow
from prefect.testing.utilities import prefect_test_harness
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from own_sweep import SPACE, accuracy
from prefect_trainyard.flows.search import TrialTask, search
from prefect_trainyard.schemas.sweeps import Algorithm, SweepSettings

EPOCHS = 27
#: As many trials of full length as cost what the brackets of Hyperband do, three times over.
RANDOM_TRIALS = 38
ASHA_TRIALS = 81

Curve = list[tuple[int, float]]
"""Epochs that were trained so far, and the best accuracy until then."""


def run(algorithm: Algorithm, trials: int, seed: int) -> Curve:
    curve: Curve = []
    trained: dict[int, int] = {}

    def measured(trial: TrialTask) -> float:
        # Here a trial that is not searched by rungs is asked for one unit: all epochs.
        until = trial.until_epoch if algorithm != "random" else EPOCHS
        asked = TrialTask(
            number=trial.number, params=trial.params, until_epoch=until, max_epochs=EPOCHS, folder=trial.folder
        )
        value = accuracy(asked)
        trained[trial.number] = until
        curve.append((sum(trained.values()), max(value, curve[-1][1] if curve else 0.0)))
        return value

    @flow(name=f"{algorithm}-{seed}")
    def one() -> None:
        settings = SweepSettings(algorithm=algorithm, max_trials=trials, max_epochs=EPOCHS, max_concurrent=1, seed=seed)
        with tempfile.TemporaryDirectory(prefix="trainyard-epochs-") as folder:
            search(measured, SPACE, folder=Path(folder), settings=settings)

    one()
    return curve


def reaches(curve: Curve, goal: float) -> int:
    return next(epochs for epochs, best in curve if best >= goal)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    logging.getLogger("prefect").setLevel(logging.ERROR)
    rows = []
    with prefect_test_harness():
        for seed in options.seeds:
            random = run("random", RANDOM_TRIALS, seed)
            for algorithm, trials in (("hyperband", 1), ("asha", ASHA_TRIALS)):
                curve = run(algorithm, trials, seed)
                goal = min(random[-1][1], curve[-1][1])
                needed, of_random = reaches(curve, goal), reaches(random, goal)
                rows.append((algorithm, seed, curve[-1][1], random[-1][1], goal, needed, of_random))
    table = Table("search", "seed", "its best", "best of random", "goal", "its epochs", "of random", "saved")
    for algorithm, seed, best, other, goal, needed, of_random in rows:
        told = (
            f"{best:.4f}",
            f"{other:.4f}",
            f"{goal:.4f}",
            str(needed),
            str(of_random),
            f"{1 - needed / of_random:.0%}",
        )
        table.add_row(algorithm, str(seed), *told)
    console = Console(width=110)
    console.print(table)
    for algorithm in ("hyperband", "asha"):
        shares = [1 - needed / of_random for name, *_, needed, of_random in rows if name == algorithm]
        console.print(f"{algorithm}: {statistics.median(shares):.0%} of the epochs saved in the median of the seeds")
    if options.json:
        options.json.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

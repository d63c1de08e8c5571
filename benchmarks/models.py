"""Does each network learn as well here as the same library class in a plain script with the same budget?

    python benchmarks/models.py [--networks unet segformer] [--seeds 1 2 3]

The data is rendered from the handwritten digits of scikit-learn. Both sides get the same images, epochs, batch size,
optimizer, schedule and no augmentation, and are measured after the last epoch on images that they have not seen. The
plain scripts are in `benchmarks/plain`. Every seed is printed; the table has the means.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from model_cases import CASES, Case, Data
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind
from prefect_trainyard.schemas.specs import parse_spec

PLAIN = Path(__file__).resolve().parent / "plain"


def ours(case: Case, train: Path, evaluation: Path, seed: int, out: Path) -> float:
    network, reporter = get_network(case.network), SilentReporter()
    actions = load_implementation(network)
    spec = parse_spec(network.spec(Action.TRAIN), case.spec(case.epochs, seed))
    trained = actions.train(spec, train_data=train, eval_data=evaluation, out=out, weights=None, reporter=reporter)
    model = trained.artifact(ArtifactKind.WEIGHTS, trained.latest_epoch)
    spec = parse_spec(network.spec(Action.EVALUATE), {})
    seen = actions.evaluate(spec, model=out / model.path, data=evaluation, out=out / "seen", reporter=reporter)
    return float(seen.kpi[network.key_metric])


def plain(case: Case, data: Data, seed: int) -> float:
    command = [sys.executable, str(PLAIN / f"{case.script}.py"), str(data.train), str(data.eval)]
    done = subprocess.run(
        [*command, *case.arguments, str(case.epochs), str(seed)], check=True, capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def measure(case: Case, seeds: Sequence[int], folder: Path) -> tuple[list[float], list[float], float]:
    """Return the metric of each seed here and in the plain script, and the seconds of both together."""
    start = time.monotonic()
    data = case.data(folder / "raw")
    indexes = [folder / "train.index", folder / "eval.index"]
    for raw, index in zip((data.train, data.eval), indexes, strict=True):
        build_index(raw, data.format, index)
    found = [ours(case, *indexes, seed, folder / f"seed_{seed}") for seed in seeds]
    expected = [plain(case, data, seed) for seed in seeds]
    return found, expected, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=[case.network for case in CASES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    rows = ["| network | metric | here | plain script | difference | plain script of |", "|---|---|---|---|---|---|"]
    for case in CASES:
        if arguments.networks and case.network not in arguments.networks:
            continue
        with tempfile.TemporaryDirectory(prefix="trainyard-models-") as folder:
            found, expected, seconds = measure(case, arguments.seeds, Path(folder))
        print(case.network, f"here {found} plain {expected} in {seconds:.0f} s", flush=True)
        here, there = statistics.mean(found), statistics.mean(expected)
        metric = get_network(case.network).key_metric
        points = f"{100 * (here - there):+.1f} points"
        rows.append(f"| `{case.network}` | {metric} | {here:.4f} | {there:.4f} | {points} | {case.rival} |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

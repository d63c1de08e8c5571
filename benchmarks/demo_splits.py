"""The demo's specs on other splits of the digits, because they were chosen while looking at the demo's own test images.

    python benchmarks/demo_splits.py [--seeds 1 2 3]

Each seed makes a new split and seeds the training; every result is printed, and the worst one is what to expect.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.specs import parse_spec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import digits
from demo import ACCURACY, NETWORK, PRUNE_SPEC, RETRAIN_SPEC, TRAIN_SPEC


def measure(seed: int, folder: Path) -> tuple[float, float, float]:
    """Return test accuracy after train, share of parameters pruned, and test accuracy after retrain."""
    digits.SEED = seed
    digits.write_digits(folder)
    network, reporter = get_network(NETWORK), SilentReporter()
    actions = load_implementation(network)
    train_set, eval_set, test_set = (folder / f"{name}.index" for name in ("train", "eval", "test"))
    for split, index in (("train", train_set), ("eval", eval_set), ("test_labelled", test_set)):
        build_index(folder / split, "default", index)

    def seeded(action: Action, spec: dict[str, Any]) -> object:
        changed = copy.deepcopy(spec)
        changed["train"]["exp_config"] = {"manual_seed": seed}
        return parse_spec(network.spec(action), changed)

    def accuracy(model: Path) -> float:
        spec = parse_spec(network.spec(Action.EVALUATE), {})
        seen = actions.evaluate(spec, model=model, data=test_set, out=folder / "seen", reporter=reporter)
        return float(seen.kpi[ACCURACY])

    data = {"train_data": train_set, "eval_data": eval_set, "reporter": reporter}
    out = folder / "trained"
    trained = actions.train(seeded(Action.TRAIN, TRAIN_SPEC), out=out, weights=None, **data)
    model = out / trained.model.path
    spec = parse_spec(network.spec(Action.PRUNE), PRUNE_SPEC)
    pruned = actions.prune(spec, model=model, data=train_set, out=folder / "pruned", reporter=reporter)
    weights = folder / "pruned" / pruned.model.path
    again = folder / "retrained"
    retrained = actions.retrain(seeded(Action.RETRAIN, RETRAIN_SPEC), out=again, weights=weights, **data)
    gone = 1 - pruned.parameter_count / trained.parameter_count
    return accuracy(model), gone, accuracy(again / retrained.model.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as folder:
            trained, gone, retrained = measure(seed, Path(folder))
        print(f"seed {seed}: train {trained:.4f}, {gone:.1%} pruned, retrain {retrained:.4f}", flush=True)


if __name__ == "__main__":
    main()

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from prefect_trainyard.datasets.formats import build_index
from prefect_trainyard.networks.registry import get_network, load_implementation
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.reporting import SilentReporter
from prefect_trainyard.schemas.results import ArtifactKind
from prefect_trainyard.schemas.specs import parse_spec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from digits import write_digits
from scenes import write_scenes

PLAIN = Path(__file__).resolve().parent / "plain"
COLOURS = {"red": (1.0, 0.2, 0.2), "green": (0.2, 1.0, 0.2), "blue": (0.3, 0.3, 1.0)}


@dataclass(frozen=True)
class Data:
    """Two raw folders, as the plain script reads them, and their format here."""

    train: Path
    eval: Path
    format: str


@dataclass(frozen=True)
class Case:
    network: str
    data: Callable[[Path], Data]
    epochs: int
    script: str
    argument: str
    """The model, as the script calls it."""
    spec: Callable[[int, int], dict[str, Any]]
    """Of epochs and seed."""


def digits(folder: Path) -> Data:
    write_digits(folder)
    return Data(folder / "train/images", folder / "eval/images", "default")


def coloured_digits(folder: Path) -> Data:
    """Each digit in one of three colours, and a table with both."""
    write_digits(folder / "grey")
    random = np.random.default_rng(1)
    for split in ("train", "eval"):
        rows = ["fname,digit,colour"]
        (folder / split / "images").mkdir(parents=True)
        for path in sorted((folder / "grey" / split).rglob("*.png")):
            colour = str(random.choice(list(COLOURS)))
            pixels = np.asarray(Image.open(path), float)[..., None] * np.array(COLOURS[colour])
            Image.fromarray(pixels.astype(np.uint8)).save(folder / split / "images" / path.name)
            rows.append(f"{path.name},{path.parent.name},{colour}")
        (folder / split / "train.csv").write_text("\n".join(rows))
    return Data(folder / "train", folder / "eval", "custom")


def scenes(folder: Path) -> Data:
    write_scenes(folder, counts={"train": 96, "eval": 48})
    return Data(folder / "train", folder / "eval", "unet")


def classification_pyt(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "model": {"backbone": {"type": "resnet10t"}},
        "dataset": {"batch_size": 64, "workers": 0, "augmentation": {"horizontal_flip": 0.0, "crop_min_scale": 1.0}},
        "train": {
            "train_config": {
                "runner": {"max_epochs": epochs},
                "optimizer": {"type": "adamw", "lr": 0.001, "weight_decay": 0.01},
                "lr_config": {"policy": "cosine", "warmup_epochs": 0.0, "min_lr_ratio": 0.0},
            },
            "exp_config": {"manual_seed": seed},
        },
    }


_TF_LOOP = {
    "batch_size_per_gpu": 64,
    "n_workers": 0,
    "lr_config": {"scheduler": "cosine", "learning_rate": 0.001, "soft_start": 0.0, "min_lr_ratio": 0.0},
    "reg_config": {"type": "L2", "weight_decay": 0.01},
}
_STILL = {"enable_random_crop": False, "disable_horizontal_flip": True}


def classification_tf1(epochs: int, seed: int) -> dict[str, Any]:
    train = {"n_epochs": epochs, "random_seed": seed, "optimizer": {"type": "adamw"}}
    return {"model_config": {"arch": "resnet", "n_layers": 18}, "train_config": {**_TF_LOOP, **_STILL, **train}}


def classification_tf2(epochs: int, seed: int) -> dict[str, Any]:
    train = {"num_epochs": epochs, "random_seed": seed, "optim_config": {"optimizer": "adamw"}}
    return {
        "model": {"backbone": "efficientnet-b0"},
        "dataset": {"augmentation": _STILL},
        "train": {**_TF_LOOP, **train},
    }


def multitask(epochs: int, seed: int) -> dict[str, Any]:
    schedule = {"max_learning_rate": 0.001, "min_learning_rate": 0.0, "soft_start": 0.0}
    return {
        "random_seed": seed,
        "model_config": {"arch": "resnet10t"},
        "training_config": {
            "num_epochs": epochs,
            "batch_size_per_gpu": 64,
            "n_workers": 0,
            "learning_rate": {"soft_start_cosine_annealing_schedule": schedule},
            "optimizer": {"type": "adamw"},
            "regularizer": {"type": "L2", "weight": 0.01},
            "augmentation": _STILL,
        },
    }


_NO_CHANGES = {"horizontal_flip": 0.0, "crop_min_scale": 1.0, "rotation": 0.0, "brightness": 0.0, "contrast": 0.0}


def unet(epochs: int, seed: int) -> dict[str, Any]:
    return {
        "model": {"arch": "resnet18"},
        "dataset_config": {"workers": 0, "augmentation_config": _NO_CHANGES},
        "training_config": {
            "epochs": epochs,
            "batch_size": 8,
            "loss": "cross_entropy",
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "lr_policy": "cosine",
            "warmup_epochs": 0.0,
            "random_seed": seed,
        },
    }


def segformer(epochs: int, seed: int) -> dict[str, Any]:
    steps = 96 // 8
    return {
        "dataset": {"workers": 0, "batch_size": 8, "augmentation": _NO_CHANGES},
        "train": {
            "num_rounds": epochs,
            "max_iters": epochs * steps,
            "loss": "cross_entropy",
            "optim": {"type": "adamw", "lr": 0.001, "weight_decay": 0.01, "policy": "cosine", "warmup_share": 0.0},
            "seed": seed,
        },
    }


CASES = (
    Case("classification_pyt", digits, 5, "classify", "resnet10t", classification_pyt),
    Case("classification", digits, 3, "classify", "resnet18", classification_tf1),
    Case("classification_tf2", digits, 10, "classify", "efficientnet_b0", classification_tf2),
    Case("multitask_classification", coloured_digits, 5, "tasks", "resnet10t", multitask),
    Case("unet", scenes, 15, "segment", "unet", unet),
    Case("segformer", scenes, 30, "segment", "segformer", segformer),
)


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
        [*command, case.argument, str(case.epochs), str(seed)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


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
    rows = ["| network | metric | here | plain script | difference |", "|---|---|---|---|---|"]
    for case in CASES:
        if arguments.networks and case.network not in arguments.networks:
            continue
        with tempfile.TemporaryDirectory(prefix="trainyard-models-") as folder:
            found, expected, seconds = measure(case, arguments.seeds, Path(folder))
        print(case.network, f"here {found} plain {expected} in {seconds:.0f} s", flush=True)
        here, there = statistics.mean(found), statistics.mean(expected)
        metric = get_network(case.network).key_metric
        rows.append(f"| `{case.network}` | {metric} | {here:.4f} | {there:.4f} | {100 * (here - there):+.1f} points |")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

"""A sweep over a function of your own, with nothing but Prefect: no facade, no worker.

A small network learns the handwritten digits of scikit-learn for as many epochs as it is given. ASHA gives most
points of the search space one epoch and the best of them up to 27. Kill it and call it again with the same folder: it
goes on with the trials that it has.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from prefect import flow
from prefect_trainyard.flows.search import TrialTask, search
from prefect_trainyard.schemas.sweeps import SweepSettings
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "hidden": IntDistribution(8, 256, log=True),
    "activation": CategoricalDistribution(["ReLU", "Tanh", "SiLU"]),
}


def accuracy(trial: TrialTask) -> float:
    """Train until `trial.until_epoch`, going on from what earlier rungs have left in the trial's folder."""
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(pixels / 16, digits, random_state=0, stratify=digits)
    train, test = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    train_digits, test_digits = (torch.tensor(part) for part in split[2:])
    shuffled = torch.Generator().manual_seed(trial.number)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.number)
        activation = getattr(nn, trial.params["activation"])
        model = nn.Sequential(
            nn.Linear(64, trial.params["hidden"]), activation(), nn.Linear(trial.params["hidden"], 10)
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.params["lr"], momentum=0.9)
    checkpoint, done = trial.folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        shuffled.set_state(saved["shuffled"])
        done = saved["epochs"]
    for _ in range(done, trial.until_epoch):
        for batch in torch.randperm(len(train), generator=shuffled).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[batch]), train_digits[batch]).backward()
            optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "shuffled": shuffled.get_state()}
    unfinished = checkpoint.with_suffix(".new")
    torch.save({**state, "epochs": trial.until_epoch}, unfinished)
    unfinished.replace(checkpoint)
    return float((model(test).argmax(1) == test_digits).float().mean())


@flow
def own_sweep(folder: Path) -> None:
    """Search, and say what was best."""
    settings = SweepSettings(algorithm="asha", max_trials=27, max_epochs=27, max_concurrent=2, seed=1)
    found = search(accuracy, SPACE, folder=folder, settings=settings)
    epochs = sum(trial.epochs for trial in found.trials)
    print(f"{len(found.trials)} trials, {epochs} epochs instead of {27 * len(found.trials)}.")
    print(f"The best is trial {found.best.id}: {found.best.result:.4f} with {found.best.specs}.")


if __name__ == "__main__":
    own_sweep(Path(sys.argv[1] if len(sys.argv) > 1 else "own_sweep"))

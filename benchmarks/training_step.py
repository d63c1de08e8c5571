"""What the training loop adds to a step: the same model in `networks.loop` and in a plain torch loop.

The two take turns in one process; the ratio of the pairs counts, not the milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from prefect_trainyard.networks.devices import Precision
from prefect_trainyard.networks.loop import Plan, fit
from prefect_trainyard.networks.optimization import Schedule, build_optimizer
from prefect_trainyard.schemas.reporting import SilentReporter
from torch import nn


class Regression:
    """A model whose step takes about as long as its `width` asks for."""

    def __init__(self, width: int, steps: int) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 1))
        self.steps_per_epoch = steps
        self._batch = torch.randn(32, 64)

    def fingerprint(self) -> Mapping[str, object]:
        return {}

    def batches(self, epoch: int, start: int) -> Iterator[torch.Tensor]:
        return iter([self._batch] * (self.steps_per_epoch - start))

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().mean()

    def evaluate(self, reporter: object) -> dict[str, float]:
        return {}

    def save_weights(self, path: Path, state: object, epoch: int, metrics: object) -> None:
        path.write_bytes(b"")


def plain(width: int, steps: int) -> float:
    """Return the seconds of one epoch in the loop that everybody would write."""
    learner = Regression(width, steps)
    optimizer = build_optimizer(learner.model, "adamw", lr=1e-3, weight_decay=0.01, momentum=0.9)
    start = time.perf_counter()
    for batch in learner.batches(1, 0):
        loss = learner.loss(learner.model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def ours(width: int, steps: int) -> float:
    """Return the seconds of one epoch in `fit`, with its check for a stop, schedule and guards."""
    learner = Regression(width, steps)
    optimizer = build_optimizer(learner.model, "adamw", lr=1e-3, weight_decay=0.01, momentum=0.9)
    schedule = Schedule(policy="cosine", peak=1e-3, steps_per_epoch=steps, max_epochs=1)
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(
            learner,
            optimizer,
            schedule,
            Precision(torch.device("cpu"), None),
            Plan(max_epochs=1, metric="x", maximize=True),
            folder=Path(folder),
            reporter=SilentReporter(),
        )
    return fitted.history[0].seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for width, steps in ((512, 400), (2000, 80)):
        plain(width, steps), ours(width, steps)
        pairs = [(plain(width, steps), ours(width, steps)) for _ in range(arguments.pairs)]
        rows.append(
            {
                "plain_ms_per_step": round(1000 * statistics.median(a for a, _ in pairs) / steps, 3),
                "ratio_median": round(statistics.median(b / a for a, b in pairs), 4),
                "ratio_of_minima": round(min(b for _, b in pairs) / min(a for a, _ in pairs), 4),
            }
        )
    print(json.dumps({"benchmark": "training_step", "torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

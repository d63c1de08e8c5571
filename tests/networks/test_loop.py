from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.networks.devices import Precision, seed_everything
from prefect_trainyard.networks.loop import Fit, Plan, fit
from prefect_trainyard.networks.optimization import Schedule, build_optimizer
from prefect_trainyard.networks.ranks import Ranks
from prefect_trainyard.networks.weights import save_weights
from prefect_trainyard.schemas.errors import JobFailed
from torch import nn

STEPS, EPOCHS = 5, 4


class Regression:
    """A small problem with dropout, so that a lost random state changes the result."""

    def __init__(self, scores: list[float] | None = None, data: str = "a", losses: list[float] | None = None) -> None:
        seed_everything(7)
        self.model: nn.Module = nn.Sequential(
            nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1)
        )
        self.steps_per_epoch = STEPS
        self.scores, self.losses = scores, losses
        self.evaluations = 0
        self.data = data
        self.factor = 1.0

    def fingerprint(self) -> dict[str, Any]:
        return {"training data": self.data}

    def batches(self, epoch: int, start: int) -> Iterator[torch.Tensor]:
        for step in range(start, STEPS):
            yield torch.randn(8, 4, generator=torch.Generator().manual_seed(1000 * epoch + step))

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return self.factor * (model(batch).squeeze(1) - batch.sum(1)).square().mean()

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        if self.scores is None:
            return {}
        self.evaluations += 1
        score = self.scores[self.evaluations - 1]
        return {"score": score} if self.losses is None else {"score": score, "loss": self.losses[self.evaluations - 1]}

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        save_weights(path, state, {"epoch": epoch})


def run(folder: Path, reporter: Any, learner: Regression | None = None, **plan: Any) -> tuple[Fit, dict[str, Any]]:
    learner = learner or Regression()
    options = {"max_epochs": EPOCHS, "metric": "score", "maximize": True, "grad_clip": 1.0, **plan}
    optimizer = build_optimizer(learner.model, "adamw", lr=0.01, weight_decay=0.01, momentum=0.9)
    schedule = Schedule(policy="cosine", peak=0.01, steps_per_epoch=STEPS, max_epochs=options["max_epochs"])
    precision = Precision(torch.device("cpu"), None)
    result = fit(learner, optimizer, schedule, precision, Plan(**options), folder=folder, reporter=reporter)
    return result, {**learner.model.state_dict(), **{f"o{i}": s["exp_avg"] for i, s in optimizer.state.items()}}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


@pytest.mark.parametrize("stop_at", [1, 3, 5, 6, 7, 13])
def test_a_run_that_stopped_anywhere_goes_on_bit_for_bit(
    tmp_path: Path, make_recorder: Callable[..., Any], stop_at: int
) -> None:
    whole, expected = run(tmp_path / "whole", make_recorder())
    first = make_recorder(lambda r: r.checks == stop_at)
    part, _ = run(tmp_path / "parts", first)
    assert part.stopped
    second = make_recorder()
    rest, weights = run(tmp_path / "parts", second)
    assert not rest.stopped
    assert same(weights, expected)
    assert [e.metrics for e in rest.history] == [e.metrics for e in whole.history]
    assert [number for number, _ in first.epochs + second.epochs] == [1, 2, 3, 4]


class Termination(BaseException):
    """Stands for what Prefect raises in the main thread when a flow run is cancelled."""


@pytest.mark.parametrize("raise_at", [2, 5, 9, 12, 20])
def test_a_run_that_was_torn_down_goes_on_from_its_last_checkpoint_bit_for_bit(
    tmp_path: Path, make_recorder: Callable[..., Any], raise_at: int
) -> None:
    def tear_down(recorder: Any) -> bool:
        if recorder.checks == raise_at:
            raise Termination
        return False

    _, expected = run(tmp_path / "whole", make_recorder())
    with pytest.raises(Termination):
        run(tmp_path / "parts", make_recorder(tear_down))
    assert (newest_checkpoint(tmp_path / "parts") is not None) == (raise_at > 6)
    _, weights = run(tmp_path / "parts", make_recorder())
    assert same(weights, expected)


def test_running_a_finished_training_again_changes_nothing(tmp_path: Path, make_recorder: Callable[..., Any]) -> None:
    _, expected = run(tmp_path, make_recorder())
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = make_recorder()
    result, weights = run(tmp_path, again)
    assert result.progress.epoch == EPOCHS
    assert same(weights, expected)
    assert not again.epochs
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_best_latest_and_every_nth_weights_are_kept(tmp_path: Path, recorder: Any) -> None:
    scores = [0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6]
    result, _ = run(tmp_path, recorder, Regression(scores), max_epochs=7, checkpoint_interval=3)
    assert (result.progress.best_epoch, result.progress.epoch) == (2, 7)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        f"model_epoch_{epoch:03d}.safetensors" for epoch in (2, 3, 6, 7)
    ]
    assert len(list(tmp_path.glob("checkpoint_*"))) == 2


def test_training_ends_when_the_metric_no_longer_improves(tmp_path: Path, recorder: Any) -> None:
    scores = [0.1, 0.5, 0.505, 0.5, 0.9, 0.9]
    result, _ = run(tmp_path, recorder, Regression(scores), max_epochs=6, patience=2, min_delta=0.01)
    assert result.ended_early
    assert result.progress.epoch == 4
    assert result.progress.best_epoch == 3


def test_of_equally_good_epochs_the_one_with_the_lower_loss_is_best(tmp_path: Path, recorder: Any) -> None:
    learner = Regression([0.9, 0.9, 0.9, 0.8], losses=[0.3, 0.1, 0.2, 0.0])
    result, _ = run(tmp_path, recorder, learner)
    assert result.progress.best_epoch == 2


def test_evaluation_comes_at_its_interval_and_at_the_end(tmp_path: Path, recorder: Any) -> None:
    run(tmp_path, recorder, Regression([0.1, 0.2, 0.3]), max_epochs=5, evaluation_interval=2)
    assert [epoch for epoch, metrics in recorder.epochs if "score" in metrics] == [2, 4, 5]


def test_a_loss_that_is_no_number_fails_with_advice_and_leaves_a_good_checkpoint(
    tmp_path: Path, make_recorder: Callable[..., Any]
) -> None:
    learner = Regression()

    def spoil(recorder: Any) -> bool:
        if recorder.epochs:
            learner.factor = math.nan
        return False

    recorder = make_recorder(spoil)
    with pytest.raises(JobFailed, match="not a number") as failure:
        run(tmp_path, recorder, learner)
    assert "grad_clip" in failure.value.hint
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found[1].epoch == 1


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path, make_recorder: Callable[..., Any]) -> None:
    run(tmp_path, make_recorder(lambda r: r.checks == 3))
    with pytest.raises(JobFailed, match="training data"):
        run(tmp_path, make_recorder(), Regression(data="b"))


def test_a_long_epoch_is_saved_within(tmp_path: Path, recorder: Any) -> None:
    run(tmp_path, recorder, max_epochs=1, checkpoint_minutes=1e-9)
    names = {path.name for path in recorder.files}
    assert {f"checkpoint_epoch_000_step_{step:06d}.pth" for step in range(1, STEPS + 1)} < names

from __future__ import annotations

import errno
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prefect_trainyard.networks import checkpoints
from prefect_trainyard.networks.checkpoints import newest_checkpoint
from prefect_trainyard.networks.devices import Precision, seed_everything
from prefect_trainyard.networks.loop import Fit, Plan, fit
from prefect_trainyard.networks.optimization import Schedule, build_optimizer
from prefect_trainyard.networks.ranks import Ranks
from prefect_trainyard.networks.weights import save_weights
from prefect_trainyard.schemas.errors import JobFailed, StorageFull
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
    moments = {f"{i} {name}": v for i, s in enumerate(optimizer.state.values()) for name, v in s.items()}
    return result, {**learner.model.state_dict(), **moments}


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


def test_ten_stops_at_random_moments_change_nothing(tmp_path: Path, make_recorder: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"max_epochs": 30, "keep_last": 3}
    whole, expected = run(tmp_path / "whole", make_recorder(), **options)
    chance = random.Random(3)
    epochs: list[tuple[int, dict[str, float]]] = []
    stops = 0
    while stops < 10:
        limit = chance.randint(1, 15)
        recorder = make_recorder(lambda r, limit=limit: r.checks >= limit)
        part, _ = run(tmp_path / "parts", recorder, **options)
        assert part.stopped
        epochs += recorder.epochs
        stops += 1
    last = make_recorder()
    rest, weights = run(tmp_path / "parts", last, **options)
    assert same(weights, expected)
    assert [e.metrics for e in rest.history] == [e.metrics for e in whole.history]
    assert epochs + last.epochs == [(e.epoch, e.metrics) for e in whole.history]
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole").glob("*.safetensors")}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "parts").glob("*.safetensors")}


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


class Slow(Regression):
    """Is interrupted in its n-th evaluation, after it has drawn random numbers."""

    def __init__(self, interrupt_at: int = 0) -> None:
        super().__init__(scores=[0.1] * 20)
        self.interrupt_at = interrupt_at

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        torch.rand(3)
        if self.evaluations + 1 == self.interrupt_at:
            raise Termination
        return super().evaluate(ranks)


def test_an_epoch_whose_evaluation_was_interrupted_is_not_trained_again(
    tmp_path: Path, make_recorder: Callable[..., Any]
) -> None:
    whole, expected = run(tmp_path / "whole", make_recorder(), Slow())
    with pytest.raises(Termination):
        run(tmp_path / "parts", make_recorder(), Slow(interrupt_at=3))
    found = newest_checkpoint(tmp_path / "parts")
    assert found is not None
    assert (found[1].epoch, found[1].step) == (2, 3 * STEPS)
    second = make_recorder()
    rest, weights = run(tmp_path / "parts", second, Slow())
    assert same(weights, expected)
    assert [e.metrics for e in rest.history] == [e.metrics for e in whole.history]
    assert [epoch for epoch, _ in second.epochs] == [3, 4]


def test_who_asks_for_stops_is_not_interrupted_but_in_evaluations_and_at_the_end(
    tmp_path: Path, make_recorder: Callable[..., Any]
) -> None:
    recorder = make_recorder()
    events: list[str] = []
    recorder.allow_interruption = lambda: events.append("interruptible")
    learner = Regression(scores=[0.1, 0.2])
    evaluate = learner.evaluate

    def watched(ranks: Ranks) -> dict[str, float]:
        events.append("evaluation")
        return evaluate(ranks)

    learner.evaluate = watched  # type: ignore[method-assign]
    run(tmp_path, recorder, learner, max_epochs=2)
    assert events == ["interruptible", "evaluation"] * 2 + ["interruptible"]


def test_a_training_that_ended_early_does_not_go_on_when_it_is_resumed(
    tmp_path: Path, make_recorder: Callable[..., Any]
) -> None:
    ended, expected = run(tmp_path, make_recorder(), Regression([0.9, 0.1, 0.1, 0.1]), patience=1)
    again, weights = run(tmp_path, make_recorder(), Regression([0.0] * 4), patience=1)
    assert (ended.progress.epoch, again.progress.epoch, again.ended_early) == (2, 2, True)
    assert same(weights, expected)


def test_the_last_epochs_and_pinned_ones_are_kept(tmp_path: Path, recorder: Any) -> None:
    scores = [0.1, 0.2, 0.9, 0.1, 0.1, 0.1, 0.1]
    run(tmp_path, recorder, Regression(scores), max_epochs=7, keep_last=3, pinned=frozenset({1}))
    kept = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert kept == [f"model_epoch_{epoch:03d}.safetensors" for epoch in (1, 3, 5, 6, 7)]
    assert {path.name for path in recorder.files} >= set(kept)


class Drawing(Regression):
    """Draws random numbers in its evaluations, whose scores depend on the weights."""

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        self.evaluations += 1
        batch = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
        self.model.eval()
        with torch.inference_mode():
            loss = float((self.model(batch).squeeze(1) - batch.sum(1)).square().mean() + 1e-4 * torch.rand(1))
        return {"score": -loss, "loss": loss}


PARTS: list[tuple[list[int | None], dict[str, Any]]] = [
    ([1, 3, None], {"max_epochs": 9}),
    ([1, 3, 9], {"max_epochs": 9, "keep_last": 2, "checkpoint_interval": 4}),
    ([2, 6, 100], {"max_epochs": 8, "evaluation_interval": 2}),
    ([3, 4, None], {"max_epochs": 20, "patience": 2, "min_delta": 0.05}),
]


@pytest.mark.parametrize(("ends", "options"), PARTS)
def test_a_training_in_parts_is_bit_for_bit_one_training(
    tmp_path: Path, make_recorder: Callable[..., Any], ends: list[int | None], options: dict[str, Any]
) -> None:
    uninterrupted = make_recorder()
    whole, expected = run(tmp_path / "whole", uninterrupted, Drawing(), **options)
    recorders = [make_recorder() for _ in ends]
    for recorder, end in zip(recorders, ends, strict=True):
        part, weights = run(tmp_path / "parts", recorder, Drawing(), until_epoch=end, **options)
        assert part.progress.epoch == min(end or whole.progress.epoch, whole.progress.epoch)
        assert not part.stopped
        assert part.is_complete == (end == ends[-1])
        found = newest_checkpoint(tmp_path / "parts")
        assert found is not None
        assert found[1].step == STEPS * part.progress.epoch
        for epoch in (part.progress.epoch, part.progress.best_epoch):
            assert (tmp_path / "parts" / f"model_epoch_{epoch:03d}.safetensors").is_file()
        assert {entry.max_epoch for entry in part.history} == {options["max_epochs"]}
    assert same(weights, expected)
    assert (
        (part.is_complete, part.ended_early) == (whole.is_complete, whole.ended_early) == (True, "patience" in options)
    )
    assert [e.metrics for e in part.history] == [e.metrics for e in whole.history]
    assert part.progress.best_metrics == whole.progress.best_metrics
    # why: no epoch is trained twice, and each is told of once.
    assert [told for recorder in recorders for told in recorder.epochs] == uninterrupted.epochs
    assert max(recorders[0].fractions) <= (ends[0] or 0) / options["max_epochs"]
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole").glob("*.safetensors")}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "parts").glob("*.safetensors")}


def test_an_evaluation_only_because_a_part_ends_changes_no_weights(
    tmp_path: Path, make_recorder: Callable[..., Any]
) -> None:
    options = {"max_epochs": 6, "evaluation_interval": 3}
    _, expected = run(tmp_path / "whole", make_recorder(), Drawing(), **options)
    first = make_recorder()
    part, _ = run(tmp_path / "parts", first, Drawing(), until_epoch=2, **options)
    assert ["score" in metrics for _, metrics in first.epochs] == [False, True]
    assert part.progress.best_epoch == 2
    _, weights = run(tmp_path / "parts", make_recorder(), Drawing(), **options)
    assert same(weights, expected)


def test_a_part_that_is_there_already_trains_nothing(tmp_path: Path, make_recorder: Callable[..., Any]) -> None:
    first, expected = run(tmp_path, make_recorder(), Drawing(), until_epoch=3)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    for end in (3, 2):
        again = make_recorder()
        result, weights = run(tmp_path, again, Drawing(), until_epoch=end)
        assert (result.progress, result.is_complete) == (first.progress, False)
        assert same(weights, expected)
        assert not again.epochs
        assert not again.fractions
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_a_stop_in_a_part_is_no_end_of_it(tmp_path: Path, make_recorder: Callable[..., Any]) -> None:
    whole, expected = run(tmp_path / "whole", make_recorder(), Drawing(), max_epochs=5)
    stopped, _ = run(tmp_path / "parts", make_recorder(lambda r: r.checks == 8), Drawing(), max_epochs=5, until_epoch=3)
    assert (stopped.stopped, stopped.is_complete) == (True, False)
    part, _ = run(tmp_path / "parts", make_recorder(), Drawing(), max_epochs=5, until_epoch=3)
    assert (part.stopped, part.progress.epoch) == (False, 3)
    rest, weights = run(tmp_path / "parts", make_recorder(), Drawing(), max_epochs=5)
    assert same(weights, expected)
    assert [e.metrics for e in rest.history] == [e.metrics for e in whole.history]


class FullDisk:
    """Refuses every write while it is full, as the kernel does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        fsync = os.fsync

        def checked(descriptor: int) -> None:
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        monkeypatch.setattr(checkpoints.os, "fsync", checked)


def test_training_goes_on_while_the_disk_is_full(
    tmp_path: Path, make_recorder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_trainyard.networks.loop.RETRY_S", 0.0)
    _, expected = run(tmp_path / "whole", make_recorder())
    disk = FullDisk(monkeypatch)
    seen: list[object] = []

    def fill(recorder: Any) -> bool:
        disk.is_full = len(recorder.epochs) == 2
        if disk.is_full:
            found = newest_checkpoint(tmp_path / "full")
            seen.append(found and found[1].step)
            assert not list((tmp_path / "full").glob(".*.tmp"))
        return False

    recorder = make_recorder(fill)
    _, weights = run(tmp_path / "full", recorder, checkpoint_minutes=1e-9)
    assert same(weights, expected)
    assert len(seen) > 1
    # why one value: the checkpoint before stays, whole, for as long as no new one can be written.
    assert len(set(seen)) == 1
    assert any("No room left" in line and line.startswith("WARNING") for line in recorder.lines)
    found = newest_checkpoint(tmp_path / "full")
    assert found is not None
    assert found[1].epoch == EPOCHS


def test_what_cannot_be_written_at_the_end_fails_and_can_be_resumed(
    tmp_path: Path, make_recorder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, expected = run(tmp_path / "whole", make_recorder())
    disk = FullDisk(monkeypatch)

    def fill(recorder: Any) -> bool:
        disk.is_full = len(recorder.epochs) >= 3
        return False

    with pytest.raises(StorageFull):
        run(tmp_path / "full", make_recorder(fill))
    assert not list((tmp_path / "full").glob(".*.tmp"))
    disk.is_full = False
    _, weights = run(tmp_path / "full", make_recorder())
    assert same(weights, expected)

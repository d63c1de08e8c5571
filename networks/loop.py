"""The training loop of all families: epochs, checkpoints, resuming, stopping early, pausing.

A step never waits for the device: losses are added up where they are, and read when an epoch ends
or at most every `PROGRESS_S` seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ..schemas.errors import JobFailed, StorageFull
from ..schemas.reporting import Reporter
from ..schemas.results import EpochMetrics
from .checkpoints import load_checkpoint, newest_checkpoint, restore_rng_state, rng_state, save_checkpoint
from .devices import Precision
from .optimization import Schedule
from .ranks import ALONE, Ranks
from .retention import kept_epochs

PROGRESS_S = 2.0

#: Between epochs a checkpoint is due when saving it takes less than this share of the time since the last.
CHECKPOINT_SHARE = 0.02

#: When the disk was full, the next try to save comes after so many seconds.
RETRY_S = 60.0

#: Several processes agree on pausing every so many steps.
_CONTROL_STEPS = 8

_CONTINUE, _SAVE, _STOP = range(3)

Batch = TypeVar("Batch")


class Learner(Protocol[Batch]):
    """What the loop needs of a family: its data, its loss and its metrics."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def fingerprint(self) -> dict[str, Any]:
        """Return, in plain Python, what must be equal for a checkpoint to be continued."""

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 1) from step `start` (from 0): the same ones on every call."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean loss of a batch. `model` is the model or its distributed wrapper."""

    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """Return the metrics on the evaluation data, the same on every rank; empty when there is none."""

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        """Write the weights `state` of `epoch` for users and later actions."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training run was asked to do."""

    max_epochs: int
    """Epochs of the whole training: what the learning rates and the reports are made for."""
    until_epoch: int | None = None
    """Last epoch of this run, when it is only a part of the training; a later run in the same folder goes on.

    Evaluation comes after this epoch too. Where that is not its turn, the epoch is one more candidate for the best
    one and counts for `patience`; the weights of every epoch are those of an uninterrupted run in any case.
    """
    metric: str
    """What the best epoch is best in; without evaluation data it is the training loss."""
    maximize: bool
    evaluation_interval: int = 1
    checkpoint_interval: int = 10
    checkpoint_minutes: float = 10.0
    keep_last: int = 1
    pinned: frozenset[int] = frozenset()
    patience: int = 0
    min_delta: float = 0.0
    grad_clip: float = 0.0

    @property
    def last_epoch(self) -> int:
        """The epoch that this run ends with."""
        return self.max_epochs if self.until_epoch is None else min(self.until_epoch, self.max_epochs)


@dataclass
class Progress:
    """Where a training run is. Plain Python, so that it can be part of a checkpoint."""

    epoch: int = 0
    """Epochs that are complete."""
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    seconds_in_epoch: float = 0.0
    best_metric: float | None = None
    best_epoch: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    bad_evaluations: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Fit:
    """What came out of a training run."""

    progress: Progress
    stopped: bool
    """It was asked to stop and can be resumed."""
    ended_early: bool
    """The metric no longer improved."""
    is_complete: bool
    """There is nothing left to train; else a later run in the same folder goes on."""

    @property
    def history(self) -> list[EpochMetrics]:
        return [EpochMetrics.model_validate(entry) for entry in self.progress.history]


def weights_path(folder: Path, epoch: int) -> Path:
    return folder / f"model_epoch_{epoch:03d}.safetensors"


def fit(
    learner: Learner[Any],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    precision: Precision,
    plan: Plan,
    *,
    folder: Path,
    reporter: Reporter,
    ranks: Ranks = ALONE,
) -> Fit:
    """Train, going on from the newest complete checkpoint in `folder`, and return what came out.

    Raises:
        JobFailed: the loss is no number any more, or the checkpoint is of other data.
        StorageFull: what came out at the end cannot be written.
    """
    return _Loop(learner, optimizer, schedule, precision, plan, folder, reporter, ranks).run()


class _Loop:
    def __init__(
        self,
        learner: Learner[Any],
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        precision: Precision,
        plan: Plan,
        folder: Path,
        reporter: Reporter,
        ranks: Ranks,
    ) -> None:
        self.learner = learner
        self.optimizer = optimizer
        self.schedule = schedule
        self.precision = precision
        self.scaler = precision.scaler()
        self.plan = plan
        self.folder = folder
        self.reporter = reporter
        self.ranks = ranks
        self.progress = Progress()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.saved_at = time.monotonic()
        self.save_seconds = 0.0
        #: Weights on disk that nobody was told of: they are published with the checkpoint that knows them.
        self.untold: list[Path] = []
        #: When saving is tried again, after the disk was full.
        self.retry_at = math.inf
        self.stop_seen = False
        #: When progress was last reported; the very first step is reported as a sign of life.
        self._told = -math.inf

    def run(self) -> Fit:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        model = self.ranks.wrap(self.learner.model, self.precision.device)
        self.saved_at = time.monotonic()
        progress = self.progress
        stopped = False
        ended_early = self._is_without_improvement()
        while progress.epoch < self.plan.last_epoch and not (stopped or ended_early):
            if self._train_epoch(model) == _STOP:
                stopped = True
                break
            self._finish_epoch()
            ended_early = self._is_without_improvement()
            last = ended_early or progress.epoch == self.plan.last_epoch
            stopped = self._save_after_epoch(last) == _STOP and not last
        if not stopped:
            self.reporter.allow_interruption()
        if ended_early:
            self.reporter.log(f"No improvement in {self.plan.patience} evaluations: training ends early.")
        return Fit(progress, stopped, ended_early, ended_early or progress.epoch >= self.plan.max_epochs)

    def _is_without_improvement(self) -> bool:
        return 0 < self.plan.patience <= self.progress.bad_evaluations

    def _is_stopping(self) -> bool:
        self.stop_seen = self.stop_seen or self.reporter.stop_requested()
        return self.stop_seen

    # One epoch

    def _train_epoch(self, model: nn.Module) -> int:
        progress, learner, plan = self.progress, self.learner, self.plan
        epoch, steps = progress.epoch + 1, learner.steps_per_epoch
        began = time.monotonic() - progress.seconds_in_epoch
        loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.precision.device)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        model.train()
        for step, batch in enumerate(learner.batches(epoch, progress.step_in_epoch), progress.step_in_epoch):
            rate = self.schedule.lr(progress.epoch * steps + step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with self.precision.autocast():
                loss = learner.loss(model, batch)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self.scaler.scale(loss))
            if plan.grad_clip > 0:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(parameters, plan.grad_clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            loss_sum += loss.detach()

            now = time.monotonic()
            if now - self._told >= PROGRESS_S:
                self._told = now
                mean = float(loss_sum) / (step + 1)
                self._check_loss(mean, epoch)
                fraction = (progress.epoch + (step + 1) / steps) / plan.max_epochs
                message = f"epoch {epoch} of {plan.max_epochs}, step {step + 1} of {steps}, loss {mean:.4f}"
                self.reporter.progress(fraction, message)
            decision = self._decide(step, now)
            if decision != _CONTINUE:
                progress.step_in_epoch, progress.seconds_in_epoch = step + 1, now - began
                progress.loss_sum = float(self.ranks.sum(loss_sum.clone())) / self.ranks.world
                self._check_loss(progress.loss_sum, epoch)
                self._try_to_save()
                if decision == _STOP:
                    return _STOP
        progress.step_in_epoch, progress.seconds_in_epoch = steps, time.monotonic() - began
        progress.loss_sum = float(self.ranks.sum(loss_sum)) / self.ranks.world
        self._check_loss(progress.loss_sum, epoch)
        return _CONTINUE

    def _decide(self, step: int, now: float) -> int:
        if self.ranks.world > 1 and step % _CONTROL_STEPS:
            return _CONTINUE
        code = _CONTINUE
        if self.ranks.is_first:
            if self._is_stopping():
                code = _STOP
            elif now - self.saved_at >= 60 * self.plan.checkpoint_minutes or now >= self.retry_at:
                code = _SAVE
        return self.ranks.decide(code)

    def _finish_epoch(self) -> None:
        """Evaluate when it is time, report the epoch and count it as done."""
        progress, plan = self.progress, self.plan
        epoch, steps = progress.epoch + 1, self.learner.steps_per_epoch
        began = time.monotonic()
        metrics = {"train_loss": progress.loss_sum / steps, "lr": float(self.optimizer.param_groups[0]["lr"])}
        if epoch % plan.evaluation_interval == 0 or epoch == plan.last_epoch:
            self.ranks.share_buffers(self.learner.model)
            evaluated = self._evaluate()
            metrics |= evaluated
            self._compare(epoch, metrics, plan.metric if evaluated else "train_loss")
        seconds = progress.seconds_in_epoch + time.monotonic() - began
        entry = EpochMetrics(epoch=epoch, max_epoch=plan.max_epochs, metrics=metrics, seconds=seconds)
        progress.history.append(entry.model_dump())
        progress.epoch, progress.step_in_epoch = epoch, 0
        progress.loss_sum = progress.seconds_in_epoch = 0.0
        self.reporter.epoch(epoch, plan.max_epochs, metrics, seconds)

    def _evaluate(self) -> dict[str, float]:
        """Return the metrics. When it is interrupted, the epoch is not lost: a resumed training evaluates it first."""
        random_state = rng_state()
        try:
            self.reporter.allow_interruption()
            metrics = self.learner.evaluate(self.ranks)
            # why: who asks is not interrupted, and what follows changes the progress.
            self._is_stopping()
        except BaseException:
            restore_rng_state(random_state)
            # why alone: the others cannot be asked for their random states while they evaluate.
            if self.ranks.world == 1:
                self._try_to_save()
            raise
        # why: an evaluation that comes only because a run ends here must not change the epochs after it.
        restore_rng_state(random_state)
        return metrics

    def _compare(self, epoch: int, metrics: dict[str, float], name: str) -> None:
        progress, plan = self.progress, self.plan
        value = metrics[name]
        maximize = plan.maximize and name == plan.metric
        gain = math.inf if progress.best_metric is None else (value - progress.best_metric) * (1 if maximize else -1)
        loss = metrics.get("loss", math.nan)
        # why: small sets reach the same accuracy often; of two such epochs the surer one is better.
        if gain > 0 or (gain == 0 and loss < progress.best_metrics.get("loss", math.nan)):
            progress.best_metric, progress.best_epoch, progress.best_metrics = value, epoch, dict(metrics)
            if self.ranks.is_first:
                self.best_weights = {k: v.detach().to("cpu", copy=True) for k, v in self._state().items()}
        progress.bad_evaluations = 0 if gain > plan.min_delta else progress.bad_evaluations + 1

    def _check_loss(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise JobFailed(
                f"The training loss is not a number any more, in epoch {epoch}.",
                hint="Lower the learning rate (lr), set grad_clip (1.0 is usual), or use precision fp32.",
            )

    # Checkpoints

    def _save_after_epoch(self, last: bool) -> int:
        code = _CONTINUE
        if self.ranks.is_first:
            now, epoch = time.monotonic(), self.progress.epoch
            due = now - self.saved_at >= self.save_seconds / CHECKPOINT_SHARE or now >= self.retry_at
            if self._is_stopping():
                code = _STOP
            elif last or due or epoch % self.plan.checkpoint_interval == 0 or epoch in self.plan.pinned:
                code = _SAVE
        code = self.ranks.decide(code)
        if code != _CONTINUE:
            self._save() if last else self._try_to_save()
        elif self.plan.keep_last > 1 and self.ranks.is_first:
            self._try(self._save_weights)
        return code

    def _try_to_save(self) -> None:
        """Save; a full disk is no reason to end: the checkpoint before is still there, and there may be room later."""
        self._try(self._save)

    def _try(self, save: Callable[[], object]) -> None:
        try:
            save()
        except StorageFull as error:
            self.retry_at = time.monotonic() + RETRY_S
            self.reporter.log(f"WARNING: No checkpoint was saved; training goes on with the one before. {error}")

    def _save(self) -> None:
        """Write the weights that are new and the checkpoint, in this order: what it refers to is there."""
        random_states = self.ranks.gather(rng_state())
        if not self.ranks.is_first:
            return
        began = time.monotonic()
        progress = self.progress
        self._save_weights()
        done = progress.epoch * self.learner.steps_per_epoch + progress.step_in_epoch
        state = {
            "version": 1,
            "fingerprint": self._fingerprint(),
            "progress": vars(progress),
            "model": self._state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": random_states,
        }
        name = f"checkpoint_epoch_{progress.epoch:03d}"
        if progress.step_in_epoch:
            name += f"_step_{progress.step_in_epoch:06d}"
        checkpoint = save_checkpoint(self.folder, state, epoch=progress.epoch, step=done, name=name)
        self._drop_old_weights()
        self.reporter.saved([*filter(Path.is_file, self.untold), *checkpoint])
        self.untold = []
        self.saved_at, self.retry_at = time.monotonic(), math.inf
        self.save_seconds = self.saved_at - began

    def _save_weights(self) -> None:
        progress = self.progress
        if self.best_weights is not None and progress.best_epoch is not None:
            self._write_weights(progress.best_epoch, self.best_weights, progress.best_metrics)
            self.best_weights = None
        if progress.epoch and not progress.step_in_epoch and progress.epoch != progress.best_epoch:
            self._write_weights(progress.epoch, self._state(), progress.history[-1]["metrics"])

    def _write_weights(self, epoch: int, state: dict[str, torch.Tensor], metrics: dict[str, float]) -> None:
        path = weights_path(self.folder, epoch)
        self.learner.save_weights(path, state, epoch, metrics)
        if path not in self.untold:
            self.untold.append(path)

    def _drop_old_weights(self) -> None:
        plan = self.plan
        weights = {int(path.stem.rpartition("_")[2]): path for path in self.folder.glob("model_epoch_*.safetensors")}
        kept = kept_epochs(
            weights,
            best=self.progress.best_epoch,
            keep_last=plan.keep_last,
            interval=plan.checkpoint_interval,
            pinned=plan.pinned,
        )
        for epoch in weights.keys() - kept:
            weights[epoch].unlink()

    def _resume(self) -> None:
        found = newest_checkpoint(self.folder)
        if found is None:
            return
        path, manifest = found
        state = load_checkpoint(path)
        self._check_fingerprint(path, state.get("fingerprint"))
        self.progress = Progress(**state["progress"])
        self.learner.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        restore_rng_state(state["rng"][self.ranks.rank])
        at = f"epoch {manifest.epoch + 1}, step {self.progress.step_in_epoch + 1}"
        self.reporter.log(f"Training goes on from {path.name}, at {at}.")

    def _fingerprint(self) -> dict[str, Any]:
        steps, world = self.learner.steps_per_epoch, self.ranks.world
        return {"steps per epoch": steps, "number of processes": world, **self.learner.fingerprint()}

    def _check_fingerprint(self, path: Path, saved: object) -> None:
        now = self._fingerprint()
        if not isinstance(saved, dict):
            raise JobFailed(f"{path.name} is not a checkpoint of this program.")
        changed = [name for name in now if saved.get(name) != now[name]]
        if changed:
            raise JobFailed(
                f"{path.name} cannot be continued: {', '.join(changed)} differ from when it was saved.",
                hint="Start a new train job; use this one's weights by a retrain job.",
            )

    def _state(self) -> dict[str, torch.Tensor]:
        return self.learner.model.state_dict()

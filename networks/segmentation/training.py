"""Train both networks: what they learn from and how well they do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...datasets.index import ImageIndex, open_index
from ...schemas.actions import Action
from ...schemas.errors import JobFailed
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import training
from ..checkpoints import newest_checkpoint
from ..images import Images, input_size
from ..ranks import Ranks
from ..records import normalize, per_channel
from ..registry import get_network
from ..training import FOLDER, Request, Settings
from .data import Batch, BatchOptions, LabelMaps, TrainingBatches, classes_for_training, masks_of
from .metrics import confusion_of, loss_of, score
from .model import Record, build, load_model, save_model, start_from
from .networks import Segmenter
from .plans import Recipe, recipe_of, settings_of

#: Largest side of an input that is chosen by the images.
_LARGEST = 512


def train(request: Request, reporter: Reporter) -> Output:
    """Train on one device or several, resuming what is in `request.out`."""
    return training.train(request, settings_of(request.spec), reporter, Learner, f"{__name__}:run_rank")


def run_rank(arguments: dict[str, Any], reporter: Reporter, ranks: Ranks) -> dict[str, Any]:
    """Be one of several processes that train; called by `distributed`."""
    request = Request.from_json(arguments, get_network(arguments["network"]).spec(Action.TRAIN))
    return training.run(request, settings_of(request.spec), reporter, ranks, Learner).model_dump(mode="json")


class Learner:
    """A segmentation model as the training loop sees it."""

    def __init__(
        self, request: Request, settings: Settings, device: torch.device, ranks: Ranks, reporter: Reporter
    ) -> None:
        recipe = recipe_of(request.spec)
        index = open_index(request.train_data)
        self.digest = index.digest
        model, self.record = _start(request, recipe, index, reporter)
        self.device = device
        self.model: nn.Module = model.to(device)
        if device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self._loss = recipe.loss
        self._batch_size = recipe.batch_size
        self.images, label_maps = self._read(index, "training", recipe)
        options = BatchOptions(
            batch_size=recipe.batch_size,
            workers=recipe.reading.workers,
            seed=settings.seed,
            augmentation=recipe.augmentation,
        )
        self._batches = TrainingBatches(self.images, label_maps, options, self.record, ranks)
        self._iterations = recipe.iterations
        self._evaluation = (
            None if request.eval_data is None else self._read(open_index(request.eval_data), "evaluation", recipe)
        )
        if self._iterations is not None:
            reporter.log(f"{settings.max_epochs} rounds of {self._iterations} iterations; an epoch is a round here.")

    def _read(self, index: ImageIndex, role: str, recipe: Recipe) -> tuple[Images, LabelMaps]:
        cache_mb = recipe.reading.cache_mb
        return Images(index, self.record.shape, cache_mb), LabelMaps(masks_of(index, role), self.record, cache_mb)

    @property
    def image_count(self) -> int:
        return len(self.images)

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps if self._iterations is None else self._iterations

    def fingerprint(self) -> dict[str, Any]:
        return {
            "training data": self.digest,
            "backbone": self.record.backbone,
            "input size": list(self.record.shape),
            "classes": self.record.classes,
        }

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        pin = self.device.type == "cuda"
        if self._iterations is None:
            return self._batches.epoch(epoch, start, pin)
        # why: rounds of iterations begin where the last one ended, anywhere in a pass over the data.
        first = (epoch - 1) * self._iterations
        places = [divmod(first + step, self._batches.steps) for step in range(start, self._iterations)]
        return self._batches.at([(done + 1, step) for done, step in places], pin)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        labels = batch.labels.to(self.device, non_blocking=True)
        return loss_of(model(self._input(batch.pixels)), labels, self._loss)

    @torch.inference_mode()
    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        if self._evaluation is None:
            return {}
        images, label_maps = self._evaluation
        label_maps.load()
        classes = len(self.record.classes)
        sums = torch.zeros(classes * classes + 2, dtype=torch.float64, device=self.device)
        self.model.eval()
        mine = range(ranks.rank, len(images), ranks.world)
        for numbers, pixels in images.batches(self._batch_size, mine):
            labels = label_maps.labels(numbers).to(self.device)
            logits = self.model(self._input(pixels)).float()
            sums[:-2] += confusion_of(logits.argmax(1), labels, classes).flatten()
            sums[-2] += loss_of(logits, labels, self._loss).double() * len(numbers)
            sums[-1] += len(numbers)
        *confusion, loss, count = ranks.sum(sums).tolist()
        table = torch.tensor(confusion, dtype=torch.int64).reshape(classes, classes).numpy()
        found = score(table, loss / count, self.record.classes).kpi
        return {name: found[name] for name in ("mIoU", "pixel_accuracy", "loss")}

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        save_model(path, state, self.record.model_copy(update={"epoch": epoch, "metrics": metrics}))

    def _input(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = normalize(pixels_BCHW.to(self.device, non_blocking=True), self.record)
        return inputs.contiguous(memory_format=torch.channels_last) if self.device.type == "cuda" else inputs


def _start(request: Request, recipe: Recipe, index: ImageIndex, reporter: Reporter) -> tuple[Segmenter, Record]:
    """Return the network before its first step: from the parent job, from base weights, or random."""
    masks = masks_of(index, "training")
    if request.is_retrain:
        if request.weights is None:
            raise JobFailed("A retrain job starts from the weights of its parent, and there are none.")
        model, record = load_model(request.weights)
        return model, record.model_copy(update={"epoch": None, "metrics": {}})
    classes = classes_for_training(masks, recipe.listed_classes)
    width, height = input_size(index, _LARGEST)
    size = recipe.size
    record = Record(
        network=recipe.network,
        backbone=recipe.backbone,
        decoder_channels=recipe.decoder_channels,
        classes=classes.classes,
        masks=classes,
        channels=size.input_channels,
        width=size.input_width or width,
        height=size.input_height or height,
        mean=per_channel(recipe.reading.mean, size.input_channels),
        std=per_channel(recipe.reading.std, size.input_channels),
    )
    if request.weights is None:
        return build(record), record
    # why also for a resumed training, which gets all its weights from the checkpoint: a pruned base gives the shapes.
    model, sentence = start_from(request.weights, record)
    if newest_checkpoint(request.out / FOLDER) is None:
        reporter.log(sentence)
    return model, record

"""Train every detector: what it learns from and how well it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ...datasets.box_index import BoxIndex, open_box_index
from ...schemas.actions import Action
from ...schemas.errors import DatasetError, JobFailed
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import training
from ..checkpoints import newest_checkpoint
from ..images import input_size
from ..predictors import side_by_side
from ..ranks import Ranks
from ..records import normalize, per_channel
from ..registry import get_network
from ..training import FOLDER, Request, Settings
from .data import Batch, TrainingBatches
from .detector import Candidates, Detector
from .metrics import Detections, kpi_of, truths
from .model import Record, build, load_model, save_model, start_from
from .pictures import Pictures, require_masks, require_objects
from .plans import Recipe, recipe_of, settings_of
from .predictions import detections, pictures_of
from .yolo_anchors import with_anchors

#: Largest side of an input that is chosen by the pictures.
_LARGEST = 512


def train(request: Request, reporter: Reporter) -> Output:
    """Train on one device or several, resuming what is in `request.out`."""
    return training.train(request, settings_of(request.spec), reporter, Learner, f"{__name__}:run_rank")


def run_rank(arguments: dict[str, Any], reporter: Reporter, ranks: Ranks) -> dict[str, Any]:
    """Be one of several processes that train; called by `distributed`."""
    request = Request.from_json(arguments, get_network(arguments["network"]).spec(Action.TRAIN))
    return training.run(request, settings_of(request.spec), reporter, ranks, Learner).model_dump(mode="json")


class Learner:
    """A detector as the training loop sees it."""

    def __init__(
        self, request: Request, settings: Settings, device: torch.device, ranks: Ranks, reporter: Reporter
    ) -> None:
        recipe = recipe_of(request.spec)
        index = open_box_index(request.train_data)
        require_objects(index, "training")
        self.digest = index.digest
        model, self.record = _start(request, recipe, index, reporter)
        self._measured = tuple(name for name in get_network(self.record.network).training_metrics if name != "loss")
        self.device = device
        self.model: nn.Module = model.to(device)
        if device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self._batch_size = recipe.batch_size
        self._limits = recipe.limits
        self.pictures = self._read(index, "training", recipe)
        self._batches = TrainingBatches(
            self.pictures,
            recipe.batch_size,
            augmentation=recipe.augmentation,
            seed=settings.seed,
            ranks=ranks,
            workers=recipe.reading.workers,
        )
        self._evaluation: Pictures | None = None
        if request.eval_data is not None:
            evaluation = open_box_index(request.eval_data)
            require_objects(evaluation, "evaluation")
            self._evaluation = self._read(evaluation, "evaluation", recipe)
            self._truth = truths(evaluation, self.record.classes, masks=self.record.mask_side > 0)

    def _read(self, index: BoxIndex, role: str, recipe: Recipe) -> Pictures:
        if self.record.mask_side:
            require_masks(index, role)
        return pictures_of(index, self.record, role=role, cache_mb=recipe.reading.cache_mb)

    @property
    def image_count(self) -> int:
        return len(self.pictures)

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps

    def fingerprint(self) -> dict[str, Any]:
        return {
            "training data": self.digest,
            "backbone": self.record.backbone,
            "architecture": self.record.options,
            "input size": list(self.record.shape),
            "classes": self.record.classes,
        }

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return self._batches.epoch(epoch, start, self.device.type == "cuda")

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = model(self._input(batch.pixels), [target.to(self.device) for target in batch.targets])
        return found

    @torch.no_grad()
    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        if self._evaluation is None:
            return {}
        pictures = self._evaluation
        detector = cast(Detector, self.model.eval())
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        found: dict[int, Detections] = {}
        mine = range(ranks.rank, len(pictures), ranks.world)
        for numbers, pixels in pictures.batches(self._batch_size, mine):
            inputs = self._input(pixels)
            targets = [pictures.target(i).to(self.device) for i in numbers]
            sums[0] += cast(torch.Tensor, detector(inputs, targets)).double() * len(numbers)
            sums[1] += len(numbers)
            candidates = side_by_side(cast(Candidates, detector(inputs)))
            found.update(detections(candidates, numbers, pictures, self.record, self._limits))
        loss, count = ranks.sum(sums).tolist()
        measured = torch.zeros(len(self._measured), dtype=torch.float64, device=self.device)
        parts = ranks.gather(found)
        if ranks.is_first:
            all_found = {i: one for part in parts for i, one in part.items()}
            kpi = kpi_of(self._truth, [all_found[i] for i in range(len(pictures))], self.record.classes)
            measured += torch.tensor([kpi[name] for name in self._measured], device=self.device)
        # why a sum: the others add zeros, and get to know.
        values = ranks.sum(measured).tolist()
        return {**dict(zip(self._measured, values, strict=True)), "loss": loss / count}

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        save_model(path, state, self.record.model_copy(update={"epoch": epoch, "metrics": metrics}))

    def _input(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        inputs = normalize(pixels_BCHW.to(self.device, non_blocking=True), self.record)
        return inputs.contiguous(memory_format=torch.channels_last) if self.device.type == "cuda" else inputs


def _start(request: Request, recipe: Recipe, index: BoxIndex, reporter: Reporter) -> tuple[Detector, Record]:
    """Return the network before its first step: from the parent job, from base weights, or random."""
    if request.is_retrain:
        if request.weights is None:
            raise JobFailed("A retrain job starts from the weights of its parent, and there are none.")
        model, record = load_model(request.weights)
        return model, record.model_copy(update={"epoch": None, "metrics": {}})
    if recipe.most_classes is not None and len(index.classes) > recipe.most_classes:
        raise DatasetError(
            f"num_classes is {recipe.most_classes}, and the training data has {len(index.classes)} classes.",
            hint="Raise it, or set it to 0 for as many as the data has.",
        )
    width, height = input_size(index, _LARGEST)
    record = Record(
        network=recipe.network,
        backbone=recipe.backbone,
        options=recipe.options,
        classes=index.classes,
        channels=recipe.channels,
        width=recipe.width or width,
        height=recipe.height or height,
        mean=per_channel(recipe.reading.mean, recipe.channels),
        std=per_channel(recipe.reading.std, recipe.channels),
        resize="letterbox" if recipe.resizing == "letterbox" else "stretch-bilinear",
    )
    record = with_anchors(record, index, request.weights)
    if request.weights is None:
        return build(record)
    # why also for a resumed training, which gets all its weights from the checkpoint: a pruned base gives the shapes.
    model, record, sentence = start_from(request.weights, record)
    if newest_checkpoint(request.out / FOLDER) is None:
        reporter.log(sentence)
    return model, record

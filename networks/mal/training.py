"""Train `mal`: what it learns from and how well it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ...datasets.box_index import BoxIndex, open_box_index
from ...datasets.boxes import RunLengths
from ...schemas.actions import Action
from ...schemas.reporting import Reporter
from ...schemas.results import Output
from .. import training
from ..checkpoints import newest_checkpoint
from ..detection.augmentation import Augmentation
from ..ranks import Ranks
from ..records import normalize, per_channel
from ..registry import get_network
from ..training import FOLDER, Request, Settings
from .crops import Batch, Crops, TrainingBatches, boxes_of_size, require_boxes
from .losses import crf_loss, mean_field, mil_loss
from .masks import make, overlap, true_masks
from .model import NETWORK, Record, at_size, build, save_model, start_from
from .network import MaskLabeller
from .plans import field_of, settings_of
from .spec import TrainSpec


def train(request: Request, reporter: Reporter) -> Output:
    """Train on one device or several, resuming what is in `request.out`."""
    return training.train(request, settings_of(_spec(request)), reporter, Learner, f"{__name__}:run_rank")


def run_rank(arguments: dict[str, Any], reporter: Reporter, ranks: Ranks) -> dict[str, Any]:
    """Be one of several processes that train; called by `distributed`."""
    request = Request.from_json(arguments, get_network(arguments["network"]).spec(Action.TRAIN))
    return training.run(request, settings_of(_spec(request)), reporter, ranks, Learner).model_dump(mode="json")


def _spec(request: Request) -> TrainSpec:
    assert isinstance(request.spec, TrainSpec)
    return request.spec


class Learner:
    """The model as the training loop sees it. An item is a box."""

    def __init__(
        self, request: Request, settings: Settings, device: torch.device, ranks: Ranks, reporter: Reporter
    ) -> None:
        spec = _spec(request)
        self._train, data, changes = spec.train, spec.dataset, spec.dataset.augmentation
        index = open_box_index(request.train_data)
        rows = boxes_of_size(index, data.min_obj_size, data.max_obj_size)
        if left_out := int((~index.is_ignored).sum()) - len(rows):
            reporter.log(f"{left_out} boxes are smaller or larger than those to learn from, and are left out.")
        self.digest = index.digest
        network, self.record = _start(request, spec, index, reporter)
        self.device = device
        self.model: nn.Module = network.to(device)
        if device.type == "cuda":
            self.model = self.model.to(memory_format=torch.channels_last)
        self._crops = Crops(index, rows, data.crop_size, data.cache_mb)
        self._batches = TrainingBatches(
            self._crops,
            spec.train.batch_size,
            margins=(spec.train.margin_rate[0], spec.train.margin_rate[1]),
            augmentation=Augmentation(
                flip=changes.horizontal_flip,
                brightness=changes.brightness,
                contrast=changes.contrast,
                saturation=changes.saturation,
                hue=changes.hue,
            ),
            seed=settings.seed,
            ranks=ranks,
            workers=data.workers,
        )
        self._momentum = spec.model.teacher_momentum
        self._field = field_of(spec.train)
        half = settings.max_epochs * self.steps_per_epoch / 2
        self._mil_steps, self._crf_steps = (
            max(1.0, min(half, steps)) for steps in (spec.train.loss_mil_step, spec.train.loss_crf_step)
        )
        self._evaluation: Crops | None = None
        self._truth: list[RunLengths] | None = None
        if request.eval_data is not None:
            self._read_evaluation(open_box_index(request.eval_data), data.crop_size, data.cache_mb)

    def _read_evaluation(self, index: BoxIndex, size: int, cache_mb: int) -> None:
        require_boxes(index, "evaluation")
        self._evaluation = Crops(index, np.flatnonzero(~index.is_ignored), size, cache_mb)
        if self._train.metric != "loss":
            self._truth = true_masks(index, "Use a set with masks, or set train.metric to loss, or give none at all.")

    @property
    def image_count(self) -> int:
        return len(set(self._crops.index.images[self._crops.rows].tolist()))

    @property
    def steps_per_epoch(self) -> int:
        return self._batches.steps

    def fingerprint(self) -> dict[str, Any]:
        return {
            "training data": self.digest,
            "boxes": len(self._crops),
            "backbone": self.record.backbone,
            "heads": self.record.heads,
            "input size": list(self.record.shape),
        }

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        return self._batches.epoch(epoch, start, self.device.type == "cuda")

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        train, network = self._train, cast(MaskLabeller, self.model)
        images, boxes = self._input(batch)
        shares = [((network.steps + 1) / steps).clamp(max=1.0) for steps in (self._mil_steps, self._crf_steps)]
        network.follow(self._momentum)
        logits = model(images, boxes)
        found = logits.float().sigmoid()
        small = _small(boxes, found)
        loss = train.loss_mil_weight * shares[0] * mil_loss(found, small).mean()
        if train.loss_crf_weight == 0:
            return loss
        with torch.no_grad():
            taught = network.teacher(images, boxes).float().sigmoid()
            colours = _small(batch.pixels.to(self.device).float() / 255, found)
            likely = mean_field((found + taught) / 2 * small, colours, self._field)
        return loss + train.loss_crf_weight * shares[1] * crf_loss(found, likely, self._field).mean()

    @torch.no_grad()
    def evaluate(self, ranks: Ranks) -> dict[str, float]:
        """Return the loss of the boxes, and the mean IoU of masks where the true ones are known."""
        if self._evaluation is None:
            return {}
        crops, network = self._evaluation, cast(MaskLabeller, self.model).eval()
        crops.load()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        mine = range(ranks.rank, len(crops), ranks.world)
        for start in range(0, len(mine), self._train.batch_size):
            numbers = list(mine[start : start + self._train.batch_size])
            windows = [crops.window(number, (self.record.margin,) * 4) for number in numbers]
            batch = Batch(*crops.cut(numbers, windows))
            images, boxes = self._input(batch)
            found = network(images, boxes).float().sigmoid()
            sums[0] += mil_loss(found, _small(boxes, found)).sum().double()
            sums[1] += len(numbers)
            if self._truth is not None:
                whole = at_size(found, boxes.shape[-2:]) * boxes
                made = make(whole, windows, crops, numbers, self.record.threshold)
                truth = [self._truth[row] for row in crops.rows[numbers]]
                sums[2] += sum(overlap(one.mask, other) for one, other in zip(made, truth, strict=True))
        loss, count, iou = ranks.sum(sums).tolist()
        found_iou = {} if self._truth is None else {"mIoU": iou / count}
        return {**found_iou, "loss": loss / count}

    def save_weights(self, path: Path, state: dict[str, torch.Tensor], epoch: int, metrics: dict[str, float]) -> None:
        save_model(path, state, self.record.model_copy(update={"epoch": epoch, "metrics": metrics}))

    def _input(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        images = normalize(batch.pixels.to(self.device, non_blocking=True), self.record)
        if self.device.type == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        return images, batch.boxes.to(self.device, non_blocking=True).float()


def _small(values: torch.Tensor, masks_BHW: torch.Tensor) -> torch.Tensor:
    """Return boxes (BHW) or pixels (BCHW) of crops at the size of masks."""
    size = masks_BHW.shape[-2:]
    if values.ndim == 4:
        return nn.functional.interpolate(values, size=size, mode="area")
    return (nn.functional.interpolate(values[:, None], size=size, mode="area")[:, 0] >= 0.5).float()


def _start(request: Request, spec: TrainSpec, index: BoxIndex, reporter: Reporter) -> tuple[MaskLabeller, Record]:
    """Return the network before its first step: from base weights, or random."""
    model, data = spec.model, spec.dataset
    record = Record(
        network=NETWORK,
        backbone=model.arch,
        classes=index.classes,
        channels=3,
        width=data.crop_size,
        height=data.crop_size,
        mean=per_channel(data.mean, 3),
        std=per_channel(data.std, 3),
        mask_head_num_convs=model.mask_head_num_convs,
        mask_head_hidden_channel=model.mask_head_hidden_channel,
        mask_head_out_channel=model.mask_head_out_channel,
        mask_scale_ratio=model.mask_scale_ratio,
        vit_dpr=model.vit_dpr,
        margin=sum(spec.train.test_margin_rate) / 2,
        threshold=spec.train.mask_thres,
    )
    if request.weights is None:
        return build(record)
    network, record, sentence = start_from(request.weights, record)
    if newest_checkpoint(request.out / FOLDER) is None:
        reporter.log(sentence)
    return network, record

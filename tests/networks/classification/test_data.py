from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prefect_trainyard.datasets.index import open_index
from prefect_trainyard.networks.classification.data import (
    TrainingBatches,
    class_weights,
)
from prefect_trainyard.networks.classification.heads import labels_for
from prefect_trainyard.networks.classification.model import Record
from prefect_trainyard.networks.classification.spec import TrainDataset
from prefect_trainyard.networks.images import Images, input_size
from prefect_trainyard.networks.ranks import Ranks
from prefect_trainyard.schemas.errors import DatasetError


def record(classes: list[str], size: int = 32, channels: int = 3) -> Record:
    return Record(
        backbone="test_resnet",
        classes=classes,
        channels=channels,
        width=size,
        height=size,
        mean=[0.5] * channels,
        std=[0.5] * channels,
    )


def batches(digits: Path, ranks: Ranks | None = None, size: int = 32, **options: Any) -> TrainingBatches:
    index = open_index(digits / "few")
    facts = record(index.classes, size)
    spec = TrainDataset(**options)
    images = Images(index, facts.shape, spec.cache_mb)
    return TrainingBatches(images, labels_for(index, facts, "training"), spec, facts, 5, ranks or Ranks())


STRONG = {
    "horizontal_flip": 0.5,
    "rotation": 20.0,
    "translation": 0.1,
    "crop_min_scale": 0.5,
    "brightness": 0.3,
    "hue": 0.1,
    "erasing": 0.5,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "policy": "trivialaugment",
}


def test_batches_are_the_same_with_and_without_worker_processes_and_from_any_step(digits: Path) -> None:
    plain = batches(digits, batch_size=16, workers=0, augmentation=STRONG)
    # why: images beyond 64 x 64 or without a cache are what worker processes are for.
    workers = batches(digits, batch_size=16, workers=2, cache_mb=0, augmentation=STRONG)
    torch.manual_seed(1)
    expected = [list(plain.epoch(epoch, 0, False)) for epoch in (1, 2)]
    assert len(expected[0]) == 6
    torch.manual_seed(2)
    for epoch, start in ((1, 0), (2, 0), (2, 4)):
        found = list(workers.epoch(epoch, start, False))
        assert len(found) == 6 - start
        for a, b in zip(expected[epoch - 1][start:], found, strict=True):
            assert torch.equal(a.pixels, b.pixels)
            assert torch.equal(a.targets, b.targets)
    assert not torch.equal(expected[0][0].pixels, expected[1][0].pixels)


@pytest.mark.parametrize("cache_mb", [0, 64])
def test_reading_batches_leaves_the_global_random_state_alone(digits: Path, cache_mb: int) -> None:
    data = batches(digits, batch_size=16, workers=2, cache_mb=cache_mb, augmentation=STRONG)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    list(data.epoch(1, 0, False))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_an_epoch_has_every_image_once(digits: Path) -> None:
    data = batches(digits, batch_size=10, augmentation={"horizontal_flip": 0.0})
    numbers = torch.cat([data._numbers(3, step) for step in range(data.steps)])
    assert sorted(numbers.tolist()) == list(range(96))


def test_ranks_share_an_epoch_in_equal_parts(digits: Path) -> None:
    parts = [batches(digits, Ranks(rank, 2), batch_size=10) for rank in range(2)]
    assert parts[0].steps == parts[1].steps == 5
    for step in range(5):
        a, b = (part._numbers(1, step).tolist() for part in parts)
        assert len(a) == len(b) >= 2
        assert not set(a) & set(b)


@pytest.mark.parametrize(("batch_size", "steps"), [(95, 1), (94, 2), (96, 1), (500, 1), (1, 96)])
def test_no_batch_is_too_small_for_batch_norm(digits: Path, batch_size: int, steps: int) -> None:
    data = batches(digits, batch_size=batch_size)
    assert data.steps == steps
    assert min(len(batch.targets) for batch in data.epoch(1, 0, False)) >= 2


def test_labels_are_matched_by_name(digits: Path) -> None:
    index = open_index(digits / "few")
    labels = labels_for(index, record(["3", "x", "2", "1", "0"]), "evaluation")
    names = {"0": 4, "1": 3, "2": 2, "3": 0}
    assert labels.tolist() == [names[index.classes[label]] for label in index.labels]


def test_an_unknown_class_and_a_set_without_labels_are_refused(digits: Path) -> None:
    with pytest.raises(DatasetError, match="2, 3"):
        labels_for(open_index(digits / "few"), record(["0", "1"]), "evaluation")
    with pytest.raises(DatasetError, match="no labels"):
        labels_for(open_index(digits / "raw"), record(["0", "1"]), "evaluation")


def test_class_weights() -> None:
    labels = np.array([0, 0, 0, 1])
    assert class_weights(TrainDataset(), labels, ["a", "b"]) is None
    balanced = class_weights(TrainDataset(class_weighting="balanced"), labels, ["a", "b"])
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([2 / 3, 2])
    explicit = TrainDataset(class_weighting="explicit", class_weights={"b": 5.0})
    found = class_weights(explicit, labels, ["a", "b"])
    assert found is not None
    assert found.tolist() == pytest.approx([0.5, 2.5])
    with pytest.raises(DatasetError, match="b"):
        class_weights(explicit, labels, ["a", "c"])


def test_images_are_resized_and_made_grey(digits: Path) -> None:
    index = open_index(digits / "few")
    assert input_size(index, 224) == (32, 32)
    images = Images(index, record(index.classes, 48, 1).shape)
    images.load()
    pixels = images.pixels([0, 5])
    assert pixels.shape == (2, 1, 48, 48)
    assert pixels.dtype == torch.uint8
    uncached = Images(index, record(index.classes, 48, 1).shape, cache_mb=0)
    assert torch.equal(uncached.pixels([0, 5]), pixels)

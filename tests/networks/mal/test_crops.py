"""The surroundings of boxes: where they are cut, and what they show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from prefect_trainyard.datasets.box_index import BoxIndex
from prefect_trainyard.networks.detection.augmentation import Augmentation
from prefect_trainyard.networks.detection.masks import pack
from prefect_trainyard.networks.mal.crops import Crops, TrainingBatches, Window, boxes_of_size, window_around
from prefect_trainyard.networks.mal.masks import make, overlap
from prefect_trainyard.networks.ranks import ALONE
from prefect_trainyard.schemas.errors import DatasetError

BOX = np.array([10, 20, 30, 60], np.float32)


@pytest.mark.parametrize(
    ("box", "margins", "window"),
    [
        (BOX, (0, 0, 0, 0), Window(10, 20, 30, 60)),
        (BOX, (0.5, 0.25, 1, 0), Window(0, 10, 50, 60)),
        (BOX, (9, 9, 9, 9), Window(0, 0, 100, 80)),  # the picture ends there
        (np.array([10.2, 20.7, 10.9, 20.9], np.float32), (0, 0, 0, 0), Window(10, 20, 11, 21)),
        (np.array([100, 80, 100, 80], np.float32), (0, 0, 0, 0), Window(99, 79, 100, 80)),
    ],
)
def test_windows(box: np.ndarray, margins: tuple[float, ...], window: Window) -> None:
    assert window_around(box, margins, (100, 80)) == window


def all_crops(index: BoxIndex, size: int = 64, cache_mb: int = 64) -> Crops:
    return Crops(index, np.flatnonzero(~index.is_ignored), size, cache_mb)


def test_a_crop_shows_its_window_and_its_box(scenes: BoxIndex) -> None:
    crops = all_crops(scenes)
    window = crops.window(0, (0.5,) * 4)
    pixels, boxes = crops.cut([0], [window])
    piece = np.asarray(scenes.image(int(scenes.images[0])))[window.slices]
    assert pixels.shape == (1, 3, 64, 64) and boxes.shape == (1, 64, 64)
    assert pixels.float().mean().item() == pytest.approx(piece.mean(), abs=2)
    x1, y1, x2, y2 = scenes.edges[0]
    height, width = window.size
    assert boxes.float().mean().item() == pytest.approx((x2 - x1) * (y2 - y1) / height / width, abs=0.03)


def test_crops_are_the_same_with_and_without_a_cache(scenes: BoxIndex) -> None:
    found = []
    for cache_mb in (0, 64):
        crops = all_crops(scenes, cache_mb=cache_mb)
        crops.load()
        assert crops.is_cached == (cache_mb > 0)
        numbers = [0, 5, 1]
        found.append(crops.cut(numbers, [crops.window(number, (0.3,) * 4) for number in numbers])[0])
    assert torch.equal(*found)


def test_boxes_of_other_sizes_are_left_out(scenes: BoxIndex) -> None:
    areas = (scenes.edges[:, 2:] - scenes.edges[:, :2]).prod(axis=1)
    middle = float(np.median(areas))
    rows = boxes_of_size(scenes, middle, 1e10)
    assert (areas[rows] >= middle).all() and 0 < len(rows) < len(areas)
    with pytest.raises(DatasetError, match="No box of the training data set has 1e\\+06 to") as failure:
        boxes_of_size(scenes, 1e6, 1e10)
    assert f"{areas.max():g}" in failure.value.message and "min_obj_size" in failure.value.hint


def batches(crops: Crops, **changes: float) -> TrainingBatches:
    return TrainingBatches(
        crops, 6, margins=(0.0, 1.2), augmentation=Augmentation(**changes), seed=3, ranks=ALONE, workers=0
    )


def test_batches_depend_on_seed_epoch_and_step_alone(scenes: BoxIndex) -> None:
    crops = all_crops(scenes)
    one, other = batches(crops, flip=0.5, brightness=0.2), batches(crops, flip=0.5, brightness=0.2)
    for first, second in zip(one.epoch(2, 1, False), list(other.epoch(2, 0, False))[1:], strict=True):
        assert torch.equal(first.pixels, second.pixels) and torch.equal(first.boxes, second.boxes)


def test_a_box_turns_with_its_crop(scenes: BoxIndex) -> None:
    crops = all_crops(scenes)
    plain, turned = (next(iter(batches(crops, flip=flip).epoch(1, 0, False))) for flip in (0.0, 1.0))
    assert torch.equal(plain.pixels.flip(-1), turned.pixels)
    assert torch.equal(plain.boxes.flip(-1), turned.boxes)


def test_masks_come_back_to_their_place_in_the_picture(scenes: BoxIndex) -> None:
    crops = all_crops(scenes, size=128)
    numbers = list(range(len(crops)))
    windows = [crops.window(number, (0.6,) * 4) for number in numbers]
    boxes = crops.cut(numbers, windows)[1]
    made = make(boxes.float(), windows, crops, numbers, 0.5)
    for number, one in zip(numbers, made, strict=True):
        x1, y1, x2, y2 = scenes.edges[crops.rows[number]].astype(int)
        whole = np.zeros((one.mask.height, one.mask.width), np.bool_)
        whole[y1:y2, x1:x2] = True
        assert overlap(one.mask, pack(whole)) > 0.9
        assert one.score > 0.9

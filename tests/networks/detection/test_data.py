"""Pictures and boxes as a network gets them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prefect_trainyard.datasets.box_index import BoxIndex
from prefect_trainyard.networks.detection.augmentation import (
    Augmentation,
    Example,
    change_colours,
    flip,
    mosaic,
    zoom,
)
from prefect_trainyard.networks.detection.data import Batch, TrainingBatches
from prefect_trainyard.networks.detection.geometry import PADDING, fit
from prefect_trainyard.networks.detection.pictures import Pictures, Target
from prefect_trainyard.networks.ranks import ALONE, Ranks
from prefect_trainyard.schemas.errors import DatasetError

CLASSES = ["digit_8", "digit_3", "digit_5"]
EVERYTHING = Augmentation(flip=0.5, zoom=0.5, mosaic=0.5, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
sides = st.integers(1, 2000)


def batches(index: BoxIndex, **changes: object) -> TrainingBatches:
    pictures = Pictures(index, (96, 96), classes=CLASSES, cache_mb=int(changes.pop("cache_mb", 100)))
    options = {"augmentation": EVERYTHING, "seed": 7, "ranks": ALONE, **changes}
    return TrainingBatches(pictures, 8, **options)


def same(ours: Batch, theirs: Batch) -> bool:
    return (
        ours.numbers == theirs.numbers
        and torch.equal(ours.pixels, theirs.pixels)
        and all(torch.equal(a.boxes, b.boxes) for a, b in zip(ours.targets, theirs.targets, strict=True))
        and all(torch.equal(a.labels, b.labels) for a, b in zip(ours.targets, theirs.targets, strict=True))
    )


def example(*boxes: tuple[float, float, float, float], size: tuple[int, int] = (60, 40)) -> Example:
    """Return a grey picture with a white rectangle in each box."""
    pixels = torch.full((3, size[1], size[0]), 50, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[:, int(y1) : int(y2), int(x1) : int(x2)] = 250
    count = len(boxes)
    return pixels, Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(count), torch.zeros(count).bool()
    )


def white(pixels: torch.Tensor, box: torch.Tensor) -> float:
    """Return which share of a box is white."""
    x1, y1, x2, y2 = (round(float(edge)) for edge in box)
    return float((pixels[0, y1:y2, x1:x2] > 150).float().mean())


@given(sides, sides, st.integers(16, 512), st.integers(16, 512), st.sampled_from(["letterbox", "stretch"]))
def test_boxes_come_back_from_the_canvas(width: int, height: int, w: int, h: int, resizing) -> None:
    place = fit((width, height), (w, h), resizing)
    boxes = np.array([[0, 0, width, height], [width / 4, height / 3, width / 2, height]], np.float32)
    on_canvas = place.to_canvas(boxes)
    assert np.allclose(on_canvas[0], [place.left, place.top, place.left + place.width, place.top + place.height])
    assert (on_canvas >= 0).all() and (on_canvas <= [w, h, w, h]).all()
    assert np.allclose(place.to_picture(on_canvas, (width, height)), boxes, atol=1e-2)
    if resizing == "stretch":
        assert (place.left, place.top, place.width, place.height) == (0, 0, w, h)


def test_a_letterboxed_picture_lies_in_the_middle_with_its_boxes_on_their_digits(scenes: BoxIndex) -> None:
    pictures = Pictures(scenes, (96, 96), classes=CLASSES)
    pixels = pictures.pixels([0, 1, 2])
    assert pixels.shape == (3, 3, 96, 96) and pixels.dtype == torch.uint8
    assert (pixels[:, :, :12] == PADDING).all() and (pixels[:, :, 84:] == PADDING).all()
    for i in range(3):
        target = pictures.target(i)
        names = [CLASSES[label] for label in target.labels]
        assert names == [scenes.classes[label] for label in scenes.box_labels[scenes.of(i)]]
        for x1, y1, x2, y2 in target.boxes.round().int().tolist():
            # Ink is darker than all of the background.
            assert pixels[i, :, y1:y2, x1:x2].min() < 80


@pytest.mark.parametrize(("channels", "resizing"), [(1, "letterbox"), (3, "stretch")])
def test_grey_and_stretched_pictures(scenes: BoxIndex, channels: int, resizing) -> None:
    pictures = Pictures(scenes, (64, 32), channels=channels, resizing=resizing)
    assert pictures.pixels([0]).shape == (1, channels, 32, 64)
    counts = [len(numbers) for numbers, _ in pictures.batches(16)]
    assert counts == [16, 16, 8]


def test_cached_pictures_are_the_same(scenes: BoxIndex) -> None:
    plain, cached = Pictures(scenes, (64, 64), cache_mb=0), Pictures(scenes, (64, 64))
    cached.load()
    assert not plain.is_cached and cached.is_cached
    assert torch.equal(plain.pixels([3, 1]), cached.pixels([3, 1]))
    cached.pixels([3]).zero_()
    assert cached.pixels([3]).any()


def test_a_jpeg_is_decoded_at_a_fraction_and_looks_the_same(one_jpeg: BoxIndex) -> None:
    small = Pictures(one_jpeg, (160, 120)).pixels([0])[0].permute(1, 2, 0).numpy().astype(int)
    whole = np.asarray(one_jpeg.image(0).resize((160, 120), 2)).astype(int)
    assert np.abs(small - whole).mean() < 3


def test_a_class_that_the_model_does_not_know_is_named(scenes: BoxIndex) -> None:
    with pytest.raises(DatasetError, match=r"training data set has classes .*: digit_3, digit_5.*are digit_8"):
        Pictures(scenes, (64, 64), classes=["digit_8"])


def test_batches_depend_on_the_seed_alone(scenes: BoxIndex) -> None:
    first, again = batches(scenes), batches(scenes, cache_mb=0)
    torch.manual_seed(1)
    ours = list(first.epoch(1, 0, False))
    torch.manual_seed(2)
    theirs = list(again.epoch(1, 3, False))
    assert len(ours) == 5 and sorted(n for b in ours for n in b.numbers) == list(range(40))
    assert all(same(a, b) for a, b in zip(ours[3:], theirs, strict=True))
    assert not same(ours[0], first[2, 0]) and not same(ours[0], batches(scenes, seed=8)[1, 0])


def test_worker_processes_give_the_same_batches(scenes: BoxIndex) -> None:
    alone, shared = batches(scenes), batches(scenes, workers=2)
    for ours, theirs in zip(alone.epoch(1, 0, False), shared.epoch(1, 0, False), strict=True):
        assert same(ours, theirs)


def test_the_global_random_numbers_stay_as_they_were(scenes: BoxIndex) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(batches(scenes).epoch(1, 0, False))
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_share_an_epoch(scenes: BoxIndex) -> None:
    parts = [batches(scenes, ranks=Ranks(rank=rank, world=3)) for rank in range(3)]
    assert {part.steps for part in parts} == {2}
    seen = [n for part in parts for b in part.epoch(1, 0, False) for n in b.numbers]
    assert set(seen) == set(range(40))


def test_a_flip_moves_boxes_with_their_pixels() -> None:
    pixels, target = flip(example((5, 10, 25, 30)))
    assert target.boxes.tolist() == [[35, 10, 55, 30]]
    assert white(pixels, target.boxes[0]) == 1


@given(st.integers(0, 10_000))
def test_zoom_and_mosaic_keep_boxes_on_their_pixels(seed: int) -> None:
    torch.manual_seed(seed)
    made = example((5, 10, 25, 30), (40, 2, 58, 20))
    for pixels, target in (
        zoom(made, Augmentation(zoom=1.0)),
        mosaic([made, flip(made), made, flip(made)], min_visible=0.3),
    ):
        assert pixels.shape == made[0].shape and pixels.dtype == torch.uint8
        assert len(target.boxes) == len(target.labels) == len(target.is_ignored)
        for box in target.boxes:
            assert 0 <= box[0] < box[2] <= 60 and 0 <= box[1] < box[3] <= 40
            assert white(pixels, box) > 0.6


def test_boxes_that_are_mostly_outside_are_left_out() -> None:
    torch.manual_seed(0)
    made = example((0, 0, 60, 40))
    _, everything = mosaic([made] * 4, min_visible=0.0)
    assert len(everything) == 4
    assert len(mosaic([made] * 4, min_visible=0.9)[1]) == 0


def test_colours_change_by_one_matrix() -> None:
    torch.manual_seed(3)
    pixels = torch.randint(60, 180, (4, 3, 20, 30), dtype=torch.uint8)
    assert torch.equal(change_colours(pixels, Augmentation()), pixels)
    grey = pixels[:, :1].repeat(1, 3, 1, 1)
    turned = change_colours(grey, Augmentation(hue=0.5, saturation=0.5))
    assert (turned.int() - grey.int()).abs().max() <= 1
    brighter = change_colours(pixels, Augmentation(brightness=0.2)).float().mean(dim=(1, 2, 3))
    ratio = brighter / pixels.float().mean(dim=(1, 2, 3))
    assert (ratio > 0.79).all() and (ratio < 1.21).all() and ratio.std() > 0.01
    alone = change_colours(pixels[:, :1], Augmentation(contrast=0.3))
    assert alone.shape == (4, 1, 20, 30)
    assert torch.allclose(alone.float().mean(dim=(1, 2, 3)), pixels[:, :1].float().mean(dim=(1, 2, 3)), atol=1)


def test_regions_to_ignore_stay_marked(scenes: BoxIndex) -> None:
    scenes.is_ignored[scenes.of(0)] = True
    try:
        target = Pictures(scenes, (96, 96), classes=CLASSES).target(0)
        assert target.is_ignored.all() and len(target) == len(target.of(target.is_ignored))
    finally:
        scenes.is_ignored[scenes.of(0)] = False

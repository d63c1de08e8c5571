"""Masks of objects: read, brought to the canvas, changed with their pictures, pasted, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from box_sets import digit_scenes
from prefect_trainyard.datasets.box_index import BoxIndex, build_box_index, open_box_index
from prefect_trainyard.datasets.boxes import Polygons
from prefect_trainyard.datasets.run_lengths import encode_runs
from prefect_trainyard.networks.detection.augmentation import Augmentation, Example, flip, mosaic, zoom
from prefect_trainyard.networks.detection.masks import masks_of, overlaps, pack, paste, unpack
from prefect_trainyard.networks.detection.metrics import Detections, kpi_of, score, truths
from prefect_trainyard.networks.detection.model import Record
from prefect_trainyard.networks.detection.pictures import Pictures, require_masks
from prefect_trainyard.schemas.errors import DatasetError

CLASSES = ["digit_3", "digit_5", "digit_8"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> BoxIndex:
    """Ten scenes of 160 x 120 with a mask for each digit."""
    root = tmp_path_factory.mktemp("masked")
    digit_scenes().write_scenes(root / "raw", "coco", pictures=10, size=(160, 120))
    build_box_index(root / "raw", "coco", root / "index", type="instance_segmentation")
    return open_box_index(root / "index")


def bounds(mask_HW: torch.Tensor) -> list[float]:
    rows, columns = mask_HW.any(dim=1).nonzero(), mask_HW.any(dim=0).nonzero()
    return [float(edge) for edge in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def examples(index: BoxIndex, size: tuple[int, int]) -> list[Example]:
    pictures = Pictures(index, size, classes=CLASSES, masks=True)
    return [(pictures.pixels([i])[0], pictures.target(i)) for i in range(len(index))]


def test_masks_are_read_as_they_were_written(masked: BoxIndex) -> None:
    for i in range(len(masked)):
        rows = masked.of(i)
        for row, mask in zip(range(rows.start, rows.stop), masks_of(masked, i), strict=True):
            assert mask == pack(unpack(mask)) and unpack(mask).sum() == masked.areas[row]
            assert bounds(torch.from_numpy(unpack(mask))) == masked.edges[row].tolist()


def test_polygons_and_runs_of_one_square_are_the_same(monkeypatch: pytest.MonkeyPatch, masked: BoxIndex) -> None:
    square = np.zeros((120, 160), np.bool_)
    square[20:40, 10:50] = True
    first = masked.of(0)
    for shape in (Polygons(((10, 20, 50, 20, 50, 40, 10, 40),)), encode_runs(square)):
        monkeypatch.setattr(masked, "mask", lambda row, shape=shape: shape)
        assert (unpack(masks_of(masked, 0)[0]) == square).all()
    monkeypatch.setattr(masked, "mask", lambda row: None)
    assert bounds(torch.from_numpy(unpack(masks_of(masked, 0)[0]))) == masked.edges[first.start].tolist()


@pytest.mark.parametrize("size", [(160, 160), (96, 64), (320, 288)])
def test_on_the_canvas_a_mask_fills_its_box(masked: BoxIndex, size: tuple[int, int]) -> None:
    for pixels, target in examples(masked, size):
        assert target.masks is not None and target.masks.shape == (len(target), *pixels.shape[1:])
        for mask, box in zip(target.masks, target.boxes, strict=True):
            assert bounds(mask) == pytest.approx(box.tolist(), abs=1.6)


@pytest.mark.parametrize("change", ["flip", "zoom", "mosaic"])
def test_masks_move_with_their_boxes(masked: BoxIndex, change: str) -> None:
    torch.manual_seed(1)
    every = examples(masked, (160, 128))
    changes: dict[str, Callable[[Example], Example]] = {
        "flip": flip,
        "zoom": lambda example: zoom(example, Augmentation(zoom=1.0)),
        "mosaic": lambda example: mosaic([example, *every[:3]], 0.3),
    }
    count = 0
    for example in every:
        pixels, target = changes[change](example)
        assert target.masks is not None and target.masks.shape == (len(target), *pixels.shape[1:])
        for mask, box in zip(target.masks, target.boxes, strict=True):
            if bool(mask.any()):  # of a digit at the edge, only a corner of the box may remain
                x1, y1, x2, y2 = bounds(mask)
                assert x1 > box[0] - 2 and y1 > box[1] - 2 and x2 < box[2] + 2 and y2 < box[3] + 2
                count += 1
                # Digits are darker than what is behind them.
                assert pixels[:, mask].float().mean() < 110
    assert count > 10


def test_cells_are_pasted_over_their_box() -> None:
    half = np.zeros((1, 4, 4), np.float32)
    half[:, :, :2] = 1
    (pasted,) = paste(half, np.array([[10.0, 5.0, 30.0, 25.0]], np.float32), (40, 30))
    assert bounds(torch.from_numpy(unpack(pasted))) == [10, 5, 20, 25]
    whole = np.ones((1, 4, 4), np.float32)
    (pasted,) = paste(whole, np.array([[0.0, 0.0, 40.0, 30.0]], np.float32), (40, 30))
    assert unpack(pasted).all()
    (nothing,) = paste(whole, np.array([[7.0, 7.0, 7.0, 20.0]], np.float32), (40, 30))
    assert not unpack(nothing).any()
    assert paste(half[:0], np.zeros((0, 4), np.float32), (40, 30)) == ()


def test_masks_of_one_box_overlap() -> None:
    cells = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert overlaps(cells, torch.tensor([[0.6, 0.2, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])).tolist() == [[0.5, 0], [0, 1]]


def test_average_precision_of_masks(masked: BoxIndex) -> None:
    truth = truths(masked, CLASSES, masks=True)
    perfect = [Detections(t.boxes, np.ones(len(t.labels)), t.labels, t.masks) for t in truth]
    kpi = kpi_of(truth, perfect, CLASSES)
    assert kpi["mask_mAP"] == kpi["mAP"] == 1 and kpi["mask_mAR100"] == 1
    boxes_alone = [
        replace(one, masks=paste(np.ones((len(one.labels), 1, 1), np.float32), one.boxes, (160, 120)))
        for one in perfect
    ]
    found = kpi_of(truth, boxes_alone, CLASSES)
    assert found["mAP"] == 1 and found["mask_mAP"] < 0.5
    assert score(truth, perfect, CLASSES, "segm").ap == dict.fromkeys(CLASSES, 1.0)
    nothing = [one.of(np.zeros(len(one.labels), np.bool_)) for one in perfect]
    assert kpi_of(truth, nothing, CLASSES)["mask_mAP50"] == 0


def test_a_box_without_a_mask_is_named(tmp_path: Path, masked: BoxIndex) -> None:
    require_masks(masked, "training")
    digit_scenes().write_scenes(tmp_path / "raw", "kitti", pictures=2, size=(96, 96))
    build_box_index(tmp_path / "raw", "kitti", tmp_path / "index")
    index = open_box_index(tmp_path / "index")
    with pytest.raises(DatasetError, match=r"box 1 \(digit_\d\) of images/scene_00000.png") as refused:
        require_masks(index, "training")
    assert "instance_segmentation" in refused.value.hint
    with pytest.raises(DatasetError, match="The evaluation data set has objects without a mask"):
        truths(index, CLASSES, masks=True)


def masked_record(**changes: object) -> Record:
    facts = {"network": "mask_rcnn", "backbone": "x", "classes": ["a"], "channels": 3, "width": 100, "height": 100}
    return Record(**facts, mean=[0.5] * 3, std=[0.5] * 3, is_ordered=False, mask_side=2, **changes)


def test_models_are_compared_by_their_masks_too() -> None:
    box, other = [10.0, 10.0, 50.0, 50.0, 0.9], [60.0, 60.0, 90.0, 90.0, 0.1]
    ours = np.array([[[*box, 1.0, 1.0, 0.0, 0.0], [*other, 0.0, 0.0, 0.0, 0.0]]], np.float32)
    same_elsewhere = ours[:, ::-1]
    assert masked_record().difference(ours, same_elsewhere) == 0
    changed = ours.copy()
    changed[0, 0, 6] = 0.2
    assert masked_record().difference(ours, changed) == pytest.approx(0.8)
    changed = ours.copy()
    changed[0, 1, 6] = 1.0
    assert masked_record().difference(ours, changed) == pytest.approx(0.1)
    assert masked_record().agreement(ours, ours) == (2, 2)
    changed = ours.copy()
    changed[0, 0, 5:] = [0.0, 0.0, 1.0, 1.0]
    assert masked_record().agreement(ours, changed) == (0, 2)
    assert masked_record(candidates=2).output_shape == (2, 9)

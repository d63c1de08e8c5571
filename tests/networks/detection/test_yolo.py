"""YOLOs, and the timm networks below detectors."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from networks.detection.detector_contract import (
    CLASSES,
    LARGE,
    MIDDLE,
    SMALL,
    DetectorContract,
    record_of,
)
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.features import Features, unsplit
from prefect_trainyard.networks.detection.yolo import yolo_v3, yolo_v4, yolo_v4_tiny
from prefect_trainyard.networks.detection.yolo_models import build
from prefect_trainyard.networks.detection.yolo_spec import YoloV3Config
from prefect_trainyard.schemas.errors import SpecError
from prefect_trainyard.schemas.specs import parse_spec


class TestYoloV4Tiny(DetectorContract):
    @staticmethod
    def build() -> Detector:
        return yolo_v4_tiny(len(CLASSES), [SMALL + MIDDLE, LARGE])


class TestYoloV3(DetectorContract):
    @staticmethod
    def build() -> Detector:
        return yolo_v3("test_resnet", len(CLASSES), [SMALL, MIDDLE, LARGE])


class TestYoloV4(DetectorContract):
    @staticmethod
    def build() -> Detector:
        return yolo_v4("test_resnet", len(CLASSES), [SMALL, MIDDLE, LARGE])


@pytest.mark.parametrize("backbone", ["cspdarknet53", "cs3darknet_s"])
def test_cross_stages_without_a_split_compute_the_same(backbone: str) -> None:
    network = timm.create_model(backbone, features_only=True, pretrained=False).eval()
    inputs = torch.randn(1, 3, 64, 64)
    changed = copy.deepcopy(network)
    unsplit(changed)
    with torch.inference_mode():
        for expected, found in zip(network(inputs), changed(inputs), strict=True):
            assert torch.allclose(expected, found, atol=1e-5)
    assert {type(layer).__name__ for layer in changed.modules()}.isdisjoint({"CrossStage", "CrossStage3"})


def test_features_have_their_strides_and_a_backbone_without_them_is_refused() -> None:
    features = Features("test_resnet", 1, (8, 16))
    assert [tuple(one.shape) for one in features(torch.zeros(1, 1, 64, 32))] == [(1, 48, 8, 4), (1, 192, 4, 2)]
    # Of one stride alone; for inputs of 224 x 224 alone; with channels last; unknown.
    for backbone in ("test_vit", "gcvit_xxtiny", "swin_tiny_patch4_window7_224", "no_such_network"):
        with pytest.raises(SpecError, match=backbone):
            Features(backbone, 3, (8, 32))


@pytest.mark.parametrize("backbone", ["test_efficientnet", "mobilenetv3_small_050", "dla34"])
def test_features_are_of_their_strides_and_need_every_layer(backbone: str) -> None:
    features = Features(backbone, 3, (8, 16))
    maps = features(torch.randn(2, 3, 64, 64))
    assert [one.shape[2] for one in maps] == [8, 4]
    sum(one.square().sum() for one in maps).backward()
    assert all(parameter.grad is not None for parameter in features.parameters())


def test_anchors_are_needed_for_every_level() -> None:
    with pytest.raises(ValueError, match="anchors are needed for each of the strides 16, 32"):
        yolo_v4_tiny(2, [SMALL])


def test_an_object_is_to_be_found_where_its_centre_is_by_the_anchors_of_its_shape() -> None:
    detector = yolo_v4_tiny(2, [[(10.0, 10.0), (10.0, 30.0)], [(40.0, 40.0), (80.0, 80.0)]])
    boxes = torch.tensor([[27.0, 5.0, 37.0, 35.0], [20.0, 20.0, 60.0, 62.0]])
    # On a grid of 4 x 4 cells of 16 pixels, and one of 2 x 2 cells of 32 pixels.
    objects, candidates = detector._match(boxes, [(4, 4), (2, 2)])
    row, column = 1, 2
    narrow = [(0, (row * 4 + column) * 2), (0, (row * 4 + column) * 2 + 1)]
    row, column = 1, 1
    square = [(1, 32 + (row * 2 + column) * 2), (1, 32 + (row * 2 + column) * 2 + 1)]
    assert list(zip(objects.tolist(), candidates.tolist(), strict=True)) == narrow + square


@pytest.mark.parametrize(("options", "anchors"), [({}, 2), ({"box_matching_iou": 1.0}, 1)])
def test_yolo_v3_lets_several_anchors_find_an_object_unless_it_is_told_not_to(
    options: dict[str, float], anchors: int
) -> None:
    shapes = {"small_anchor_shape": [[10, 10]], "mid_anchor_shape": [[12, 12]], "big_anchor_shape": [[60, 60]]}
    config = parse_spec(YoloV3Config, {"arch": "test_resnet", **shapes, **options})
    objects, _ = build(record_of("yolo_v3", config))._match(
        torch.tensor([[20.0, 20.0, 31.0, 31.0]]), [(8, 8), (4, 4), (2, 2)]
    )
    assert len(objects) == anchors

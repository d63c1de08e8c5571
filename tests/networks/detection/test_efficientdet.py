from __future__ import annotations

import torch
from networks.detection.detector_contract import CLASSES, DetectorContract
from prefect_trainyard.networks.detection import efficientdet
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.efficientdet import EfficientDet


class TestEfficientDet(DetectorContract):
    @staticmethod
    def build() -> Detector:
        # The digits are small: anchors of 16 pixels on the finest level.
        return EfficientDet("resnet10t", len(CLASSES), width=32, repeats=2, head_repeats=1, anchor_scale=2.0)


def test_anchors_lie_in_the_middle_of_their_cells() -> None:
    detector = EfficientDet("test_resnet", 2, width=8, repeats=1, head_repeats=1)
    anchors = detector._anchors([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)], torch.device("cpu"))
    assert anchors.shape == (9 * (6 + 2 + 3), 4)
    assert torch.allclose((anchors[:9, :2] + anchors[:9, 2:]) / 2, torch.tensor([4.0, 4.0]), atol=1e-4)
    assert torch.allclose((anchors[9:18, :2] + anchors[9:18, 2:]) / 2, torch.tensor([12.0, 4.0]), atol=1e-4)
    assert torch.allclose(anchors[0], torch.tensor([-12.0, -12, 20, 20]))
    sides = anchors[1, 2:] - anchors[1, :2]
    assert torch.allclose(sides[0] / sides[1], torch.tensor(2.0)) and torch.allclose(sides.prod(), torch.tensor(1024.0))


def test_offsets_give_back_the_box_they_were_made_of() -> None:
    anchors = torch.tensor([[0.0, 0, 32, 32], [10, 10, 20, 50]])
    boxes = torch.tensor([[4.0, 5, 20, 60], [11, 12, 13, 14]])
    again = efficientdet._decode(efficientdet._encode(boxes, anchors)[None], anchors)
    assert torch.allclose(again[0], boxes, atol=1e-4)


def test_every_object_has_an_anchor_even_where_none_fits() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 30, 30], [50, 50, 80, 80]])
    boxes = torch.tensor([[0.0, 0, 29, 30], [60, 60, 64, 64], [200, 200, 210, 210]])
    anchor, found = efficientdet._match(anchors, boxes)
    # The third object overlaps nothing.
    assert anchor.tolist() == [1, 2] and found.tolist() == [0, 1]
    assert all(len(part) == 0 for part in efficientdet._match(anchors, torch.zeros(0, 4)))

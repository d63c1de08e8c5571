from __future__ import annotations

import torch
from networks.detection.detector_contract import CLASSES, DetectorContract, Few
from prefect_trainyard.networks.detection.detectnet import DetectNet
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.pictures import Target


class TestDetectNet(DetectorContract):
    @staticmethod
    def build() -> Detector:
        return DetectNet("resnet10t", len(CLASSES))


def test_of_two_objects_in_a_cell_the_smaller_one_covers_it() -> None:
    detector = DetectNet("test_resnet", 2)
    boxes = torch.tensor([[[0.0, 0, 64, 64], [14, 14, 20, 20], [0, 0, 0, 0]]])
    centres = torch.tensor([[8.0, 8], [24, 24], [40, 40], [56, 56]])
    owner, is_covered = detector._cover(boxes, centres)
    # The corners are not in the ellipse of the large one.
    assert is_covered.tolist() == [[False, True, True, False]]
    assert owner[0, 1:3].tolist() == [1, 0]


def test_around_an_object_nothing_behind_it_covers_a_cell() -> None:
    detector = DetectNet("test_resnet", 2)
    boxes = torch.tensor([[[0.0, 0, 160, 160], [40, 40, 104, 104]]])
    centres = torch.tensor([[72.0, 72], [72, 44], [72, 36]])
    owner, is_covered = detector._cover(boxes, centres)
    assert owner.tolist() == [[1, 1, 0]] and is_covered.tolist() == [[True, False, True]]


def test_an_object_smaller_than_a_cell_is_learnt(few: Few) -> None:
    torch.manual_seed(0)
    detector = DetectNet("test_resnet", 2).train()
    tiny = Target(torch.tensor([[30.0, 30, 33, 33]]), torch.tensor([1]), torch.tensor([False]))
    detector(few.inputs_BCHW[:2], [tiny, tiny]).backward()
    assert detector.edges.bias.grad.abs().sum() > 0

from __future__ import annotations

import torch
from networks.detection.detector_contract import CLASSES, DetectorContract, Few, nothing
from prefect_trainyard.networks.detection.deformable import Shape
from prefect_trainyard.networks.detection.detector import Detector
from prefect_trainyard.networks.detection.dino import Denoising, Dino, _Noise
from prefect_trainyard.networks.detection.pictures import Target

SMALL = Shape(width=64, heads=4, feedforward=128, encoder_layers=1, decoder_layers=2, dropout=0.0)


class TestDino(DetectorContract):
    steps = 120
    rate = 1e-3
    falls_to = 0.3
    is_prunable = False

    @staticmethod
    def build() -> Detector:
        return Dino("test_resnet", len(CLASSES), queries=12, shape=SMALL, denoising=Denoising(queries=10))


def of(*boxes: tuple[float, ...]) -> Target:
    count = len(boxes)
    return Target(torch.tensor(boxes), torch.arange(count), torch.zeros(count, dtype=torch.bool))


def test_right_queries_lie_near_their_objects_and_wrong_ones_farther_away() -> None:
    torch.manual_seed(0)
    targets = [of((40.0, 40.0, 60.0, 60.0), (30.0, 20.0, 70.0, 30.0)), of((45.0, 45.0, 55.0, 65.0)), nothing()]
    noise = _Noise(targets, (100, 100), 3, Denoising(queries=40, label_noise=0.0, box_noise=0.4))
    # 20 groups of two right and two wrong ones; the last pictures have fewer.
    assert noise.boxes_BR4.shape == (3, 80, 4)
    assert noise._is_real_BR.sum(dim=1).tolist() == [80, 40, 0]
    assert noise._is_right_BR.sum(dim=1).tolist() == [40, 20, 0]
    truth, found = noise._boxes_BR4[0], noise.boxes_BR4[0]
    # Edges move by up to 0.4 halves of a side, so middles do too; wrong ones by 0.4 to 0.8.
    low, low_found = truth[:, :2] - truth[:, 2:] / 2, found[:, :2] - found[:, 2:] / 2
    moved = ((low - low_found).abs() / (truth[:, 2:] / 2)).amax(dim=1)
    right = noise._is_right_BR[0]
    assert moved[right].max() <= 0.4 + 1e-4 and moved[~right].min() >= 0.4 - 1e-4 and moved.max() <= 0.8 + 1e-4


def test_labels_are_replaced_at_half_of_their_share() -> None:
    torch.manual_seed(0)
    noise = _Noise([of((40.0, 40.0, 60.0, 60.0))], (100, 100), 50, Denoising(queries=2000, label_noise=0.5))
    assert 0.2 < (noise.labels_BR != 0).float().mean() < 0.3


def test_queries_see_no_answers() -> None:
    noise = _Noise([of((40.0, 40.0, 60.0, 60.0))], (100, 100), 3, Denoising(queries=2))
    same, other, never = [True, True], [False, False], [False] * 4
    expected = [same + other + [True] * 3] * 2 + [other + same + [True] * 3] * 2 + [never + [True] * 3] * 3
    assert noise.may_see(3).tolist() == expected


def test_it_learns_without_denoising_too(few: Few) -> None:
    torch.manual_seed(0)
    detector = Dino("test_resnet", len(CLASSES), queries=12, shape=SMALL, denoising=Denoising(queries=0)).train()
    detector(few.inputs_BCHW[:2], few.targets[:2]).backward()
    assert all(parameter.grad is not None for parameter in detector.parameters())

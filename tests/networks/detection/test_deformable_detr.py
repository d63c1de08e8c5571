from __future__ import annotations

from networks.detection.detector_contract import CLASSES, DetectorContract
from prefect_trainyard.networks.detection.deformable import Shape
from prefect_trainyard.networks.detection.deformable_detr import DeformableDetr
from prefect_trainyard.networks.detection.detector import Detector

SMALL = Shape(width=64, heads=4, feedforward=128, encoder_layers=1, decoder_layers=2, dropout=0.0)


class TestDeformableDetr(DetectorContract):
    steps = 150
    rate = 1e-3
    falls_to = 0.3
    is_prunable = False

    @staticmethod
    def build() -> Detector:
        return DeformableDetr("test_resnet", len(CLASSES), queries=12, shape=SMALL)

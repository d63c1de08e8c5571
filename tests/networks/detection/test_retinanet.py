"""RetinaNet's loss beside that of its library."""

from __future__ import annotations

import pytest
import torch
from networks.detection.detector_contract import CLASSES, record_of
from prefect_trainyard.networks.detection.pictures import Target
from prefect_trainyard.networks.detection.retinanet import build
from prefect_trainyard.networks.detection.retinanet_spec import RetinanetConfig
from prefect_trainyard.schemas.specs import parse_spec
from torchvision.models.detection.retinanet import RetinaNet


def test_its_loss_is_that_of_the_library() -> None:
    """With the variances of SSD places counted ten times as much as classes, which were hardly learned."""
    network = build(record_of("retinanet", parse_spec(RetinanetConfig, {"arch": "test_resnet"})))
    torch.manual_seed(0)
    count = len(network.anchors_N4)
    codes_BN4, logits_BNK = torch.randn(1, count, 4), torch.randn(1, count, len(CLASSES))
    box = network.anchors_N4[[count // 3]] + torch.tensor([[1.0, 2.0, 3.0, 1.0]])
    nobody = torch.zeros(1, dtype=torch.bool)
    ours = network._loss(codes_BN4, logits_BNK, [Target(box, torch.tensor([1]), nobody)])

    class Backbone(torch.nn.Identity):
        out_channels = 8

    library = RetinaNet(Backbone(), len(CLASSES))
    outputs = {"cls_logits": logits_BNK, "bbox_regression": codes_BN4}
    targets = [{"boxes": box, "labels": torch.tensor([1])}]
    theirs = library.compute_loss(targets, outputs, [network.anchors_N4])
    assert float(ours) == pytest.approx(float(sum(theirs.values())), rel=1e-4)

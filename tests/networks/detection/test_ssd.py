"""What an untrained DSSD merges."""

from __future__ import annotations

import pytest
import torch
from prefect_trainyard.networks.detection.model import Record
from prefect_trainyard.networks.detection.ssd import SSD, build
from prefect_trainyard.networks.detection.ssd_spec import DssdConfig
from prefect_trainyard.schemas.specs import parse_spec
from torch.nn import functional as F


def make(merge: str) -> SSD:
    config = parse_spec(DssdConfig, {"arch": "test_resnet", "merge": merge})
    shape = {"channels": 3, "width": 64, "height": 64}
    options = {"options": config.model_dump(), "mean": [0.5] * 3, "std": [0.5] * 3}
    return build(Record(network="dssd", backbone="test_resnet", classes=["a", "b"], **shape, **options))


@pytest.mark.parametrize("merge", ["sum", "product"])
def test_dssd_begins_as_an_ssd_that_merges_nothing(merge: str) -> None:
    """It learned more slowly by 12 points of mAP when random maps led it."""
    merging = make(merge).train().merging
    assert merging is not None
    maps = [torch.randn(2, side[0].in_channels, 8 >> i, 8 >> i) for i, side in enumerate(merging.sides)]
    alone = [F.relu(side(one)) for side, one in zip(merging.sides, maps, strict=True)]
    for merged, expected in zip(merging(maps), alone, strict=True):
        assert torch.equal(merged, expected)


@pytest.mark.parametrize("merge", ["sum", "product"])
def test_dssd_learns_from_the_coarser_maps(merge: str) -> None:
    merging = make(merge).train().merging
    assert merging is not None
    maps = [torch.randn(2, side[0].in_channels, 8 >> i, 8 >> i) for i, side in enumerate(merging.sides)]
    sum(one.square().sum() for one in merging(maps)).backward()
    for _, norm in merging.ups:
        assert norm.weight.grad.abs().max() > 0

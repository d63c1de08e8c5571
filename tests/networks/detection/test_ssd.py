"""What an untrained DSSD merges."""

from __future__ import annotations

import pytest
import torch
from networks.detection.detector_contract import record_of
from prefect_trainyard.networks.detection.ssd import SSD, build
from prefect_trainyard.networks.detection.ssd_spec import DssdConfig
from prefect_trainyard.schemas.specs import parse_spec
from torch.nn import functional as F


def make(merge: str) -> SSD:
    return build(record_of("dssd", parse_spec(DssdConfig, {"arch": "test_resnet", "merge": merge})))


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

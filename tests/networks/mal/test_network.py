"""The network and the teacher that follows it."""

from __future__ import annotations

import pytest
import torch
from prefect_trainyard.networks.mal.network import MaskLabeller, MaskNet


def labeller(**changes: float) -> MaskLabeller:
    torch.manual_seed(0)
    options = {"convolutions": 1, "hidden": 16, "out": 16, "scale": 2.0, **changes}
    return MaskLabeller(MaskNet("test_resnet", 64, **options))  # type: ignore[arg-type]


def moved(model: MaskLabeller) -> None:
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter += 1


@pytest.mark.parametrize(("scale", "side"), [(1.0, 16), (2.0, 32)])
def test_masks_are_finer_than_features(scale: float, side: int) -> None:
    logits = labeller(scale=scale)(torch.zeros(2, 3, 64, 64), torch.ones(2, 64, 64))
    assert logits.shape == (2, side, side)


def test_the_box_says_which_object_is_meant() -> None:
    model = labeller().eval()
    image = torch.rand(1, 3, 64, 64)
    left, right = torch.zeros(2, 1, 64, 64)
    left[..., :32], right[..., 32:] = 1, 1
    with torch.no_grad():
        assert not torch.allclose(model(image, left), model(image, right))


def test_the_teacher_follows_and_never_learns() -> None:
    model = labeller().train()
    assert model.student.training and not model.teacher.training
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())
    before = model.teacher.bias.clone()
    moved(model)
    model.follow(0.996)
    # at first it hardly keeps anything: 1 of 10 parts
    assert (model.teacher.bias - before).item() == pytest.approx(0.9)
    for _ in range(5000):
        model.steps += 1
    moved(model)
    before = model.teacher.bias.clone()
    model.follow(0.996)
    assert (model.teacher.bias - before).item() == pytest.approx(0.004 * (model.student.bias - before).item(), rel=1e-3)


def test_a_teacher_of_no_momentum_is_the_network() -> None:
    model = labeller()
    moved(model)
    model.follow(0.0)
    student = model.student.state_dict()
    assert all(torch.equal(mean, student[name]) for name, mean in model.teacher.state_dict().items())

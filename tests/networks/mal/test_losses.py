"""What boxes and colours alone tell about a mask."""

from __future__ import annotations

from dataclasses import replace

import torch
from prefect_trainyard.networks.mal.losses import Field, crf_loss, mean_field, mil_loss

FIELD = Field(zeta=0.1, omega=2.0, kernel=3, iterations=30, high=0.9, low=0.1)


def rectangle(top: int, bottom: int, left: int, right: int, size: int = 16) -> torch.Tensor:
    """Return a mask, 1HW."""
    mask = torch.zeros(1, size, size)
    mask[:, top:bottom, left:right] = 1
    return mask


BOX = rectangle(4, 12, 4, 12)


def test_a_mask_that_touches_all_sides_of_its_box_costs_nothing() -> None:
    diagonal = torch.eye(16)[None] * BOX
    assert mil_loss(BOX, BOX).item() < 1e-6
    assert mil_loss(diagonal, BOX).item() < 1e-6  # any shape: only rows and columns count


def test_masks_that_stay_away_or_reach_beyond_cost() -> None:
    smaller, larger, elsewhere = rectangle(6, 10, 6, 10), rectangle(2, 14, 2, 14), rectangle(0, 4, 0, 4)
    for wrong in (smaller, larger, elsewhere, torch.zeros(1, 16, 16)):
        assert mil_loss(wrong, BOX).item() > 0.1
    assert mil_loss(elsewhere, BOX).item() > mil_loss(smaller, BOX).item()


def test_each_box_of_a_batch_has_its_own_loss() -> None:
    together = mil_loss(torch.cat([BOX, rectangle(6, 10, 6, 10)]), torch.cat([BOX, BOX]))
    alone = [mil_loss(mask, BOX).item() for mask in (BOX, rectangle(6, 10, 6, 10))]
    assert together.tolist() == alone


def test_pixels_follow_neighbours_of_their_colour_and_no_others() -> None:
    image = rectangle(4, 12, 4, 12).expand(1, 3, 16, 16)
    unsure = BOX * 0.6 + (1 - BOX) * 0.4
    unsure[:, 5, 5] = 0.3  # one pixel errs
    likely = mean_field(unsure, image, FIELD)
    assert torch.equal((likely > 0.9).float(), BOX) and torch.equal((likely < 0.1).float(), 1 - BOX)
    one_colour = mean_field(unsure, torch.zeros(1, 3, 16, 16), FIELD)
    assert not torch.equal((one_colour > 0.5).float(), BOX)  # there is no edge to stop at


def test_without_ties_every_pixel_keeps_what_it_was() -> None:
    masks = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mean_field(masks, torch.rand(2, 3, 8, 8), replace(FIELD, omega=0.0))
    assert torch.allclose(found, masks, atol=1e-4)


def test_a_larger_neighbourhood_reaches_further() -> None:
    unsure = torch.full((1, 9, 9), 0.5)
    unsure[:, 4, 4] = 0.99
    image = torch.zeros(1, 3, 9, 9)
    moved = [
        int((mean_field(unsure, image, replace(FIELD, kernel=kernel, iterations=1)) > 0.5).sum()) for kernel in (3, 7)
    ]
    assert moved == [9, 49]


def test_only_pixels_that_are_sure_count() -> None:
    likely = BOX * 0.95
    likely[:, 4:6] = 0.5
    found = torch.where(likely == 0.5, torch.rand(1, 16, 16), BOX)
    assert crf_loss(found, likely, FIELD).item() < 1e-6
    assert crf_loss(1 - found, likely, FIELD).item() > 0.9


def test_where_no_object_is_left_the_field_says_nothing() -> None:
    masks = BOX.clone().requires_grad_()
    loss = crf_loss(masks, torch.zeros(1, 16, 16), FIELD)
    assert loss.tolist() == [0.0]
    torch.autograd.backward(loss.sum())
    assert masks.grad is not None and not masks.grad.any()

from __future__ import annotations

import pytest
import timm
from prefect_trainyard.networks.optimization import Schedule, build_optimizer


def test_cosine_warms_up_to_the_peak_and_falls_to_its_lowest() -> None:
    schedule = Schedule(policy="cosine", peak=1.0, steps_per_epoch=10, max_epochs=10, warmup_epochs=1, min_ratio=0.1)
    rates = [schedule.lr(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == max(rates) == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_steps_lower_the_rate_where_they_are_told() -> None:
    schedule = Schedule(policy="step", peak=1.0, steps_per_epoch=5, max_epochs=10, step_epochs=(2, 4), gamma=0.5)
    assert [schedule.lr(5 * epoch) for epoch in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_drops_are_counted_in_steps_of_the_training() -> None:
    drops = (4, 0.5), (6, 0.1)
    schedule = Schedule(policy="step", peak=2.0, steps_per_epoch=5, max_epochs=2, warmup_steps=2, drops=drops)
    rates = [schedule.lr(step) for step in range(10)]
    assert rates == pytest.approx([2 / 3, 4 / 3, 2, 2, 1, 1, 0.2, 0.2, 0.2, 0.2])


def test_a_warm_up_longer_than_the_training_leaves_half_of_it() -> None:
    schedule = Schedule(policy="constant", peak=1.0, steps_per_epoch=10, max_epochs=1, warmup_epochs=5)
    assert [schedule.lr(step) for step in (5, 9)] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["adamw", "adam", "sgd"])
def test_norms_and_biases_have_no_weight_decay(kind: str) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = build_optimizer(model, kind, lr=0.1, weight_decay=0.5, momentum=0.9)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.5
    assert free["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )

from __future__ import annotations

from typing import Any

import pytest
from prefect_trainyard.networks.retention import kept_epochs

EPOCHS = range(1, 11)


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, {10}),
        ({"best": 4}, {4, 10}),
        ({"best": 99}, {10}),
        ({"keep_last": 3}, {8, 9, 10}),
        ({"keep_last": 0}, {10}),
        ({"keep_last": 99}, set(EPOCHS)),
        ({"interval": 4}, {4, 8, 10}),
        ({"pinned": [2, 99]}, {2, 10}),
        ({"best": 1, "keep_last": 2, "interval": 5, "pinned": [3]}, {1, 3, 5, 9, 10}),
    ],
)
def test_best_last_every_nth_and_pinned_epochs_are_kept(rule: dict[str, Any], kept: set[int]) -> None:
    assert kept_epochs(EPOCHS, **rule) == kept
    # why: the clean-up may run any number of times.
    assert kept_epochs(kept, **rule) == kept


def test_of_nothing_nothing_is_kept() -> None:
    assert kept_epochs([]) == set()

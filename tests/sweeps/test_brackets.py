from __future__ import annotations

from itertools import pairwise

import pytest
from prefect_trainyard.sweeps.brackets import Rung, halving_rungs, hyperband_brackets


def table(max_epochs: int, eta: int, multiplier: int = 1) -> list[list[tuple[int, int]]]:
    brackets = hyperband_brackets(max_epochs, eta, multiplier)
    return [[(rung.trials, rung.epochs) for rung in bracket] for bracket in brackets]


def test_the_table_of_the_paper() -> None:
    # Li et al. 2018, table 1: R = 81, eta = 3.
    assert table(81, 3) == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(27, 3), (9, 9), (3, 27), (1, 81)],
        [(9, 9), (3, 27), (1, 81)],
        [(6, 27), (2, 81)],
        [(5, 81)],
    ]


def test_the_table_of_the_clients_contract() -> None:
    assert table(27, 3)[:3] == [[(27, 1), (9, 3), (3, 9), (1, 27)], [(9, 3), (3, 9), (1, 27)], [(6, 9), (2, 27)]]


def test_epochs_are_multiplied() -> None:
    assert table(9, 3, multiplier=4) == [[(9, 4), (3, 12), (1, 36)], [(3, 12), (1, 36)], [(3, 36)]]


@pytest.mark.parametrize("max_epochs", [1, 2, 3, 10, 26, 28, 100, 1000])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_every_bracket_ends_with_all_epochs_and_falls_to_some_trial(max_epochs: int, eta: int) -> None:
    for bracket in hyperband_brackets(max_epochs, eta):
        assert bracket[-1].epochs == max_epochs and bracket[-1].trials >= 1
        for before, after in pairwise(bracket):
            assert after.trials == before.trials // eta and before.epochs < after.epochs
        assert bracket[0].epochs >= 1


def test_a_power_is_not_missed_by_the_rounding_of_logarithms() -> None:
    assert len(hyperband_brackets(243, 3)) == 6 and len(hyperband_brackets(125, 5)) == 4


def test_rungs_of_halving() -> None:
    assert halving_rungs(27, 3) == [1, 3, 9, 27]
    assert halving_rungs(20, 3, 2) == [4, 12, 40]
    assert halving_rungs(1, 3) == [1]
    assert hyperband_brackets(1, 3) == [[Rung(1, 1)]]

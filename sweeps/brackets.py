"""How many trials train for how long: the tables of Hyperband and of successive halving."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rung:
    """One row of a bracket: `trials` of them train until they have seen `epochs`."""

    trials: int
    epochs: int


def hyperband_brackets(max_epochs: int, eta: int, multiplier: int = 1) -> list[list[Rung]]:
    """Return Hyperband's brackets, the one with most trials first.

    The numbers are those of table 1 of Li et al. 2018 (JMLR 18), s from floor(log_eta R) down to 0: with R = 81 and
    eta = 3 the first bracket has 81 trials of 1 epoch, of which 27 go on to 3 epochs, and the last one has 5 trials of
    81. A bracket has floor((s_max + 1) / (s + 1)) * eta^s trials, as in that table; algorithm 1 there would round up
    later. `multiplier` is the number of epochs of one unit of R.
    """
    depth = _depth(max_epochs, eta)
    brackets = []
    for s in range(depth, -1, -1):
        trials = (depth + 1) // (s + 1) * eta**s
        brackets.append(
            [Rung(trials // eta**i, max_epochs * eta**i // eta**s * multiplier) for i in range(s + 1)],
        )
    return brackets


def halving_rungs(max_epochs: int, eta: int, multiplier: int = 1) -> list[int]:
    """Return after how many epochs trials are compared, the last being all of them: 1, 3, 9, 27 for R = 27, eta = 3."""
    depth = _depth(max_epochs, eta)
    return [max_epochs // eta ** (depth - i) * multiplier for i in range(depth + 1)]


def _depth(max_epochs: int, eta: int) -> int:
    """Return floor(log_eta(max_epochs)), without the rounding of floats."""
    depth = 0
    while eta ** (depth + 1) <= max_epochs:
        depth += 1
    return depth

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from prefect_trainyard.sweeps.parameters import Lattice


@pytest.mark.parametrize("base", range(2, 13))
def test_powers_are_found_from_both_sides(base: int) -> None:
    lattice = Lattice(base=base)
    for exponent in range(-8, 15):
        power = float(base) ** exponent
        below, above = math.nextafter(power, 0), math.nextafter(power, math.inf)
        assert lattice.down(power) == lattice.up(power) == power
        assert (lattice.up(below), lattice.down(above)) == (power, power)
        assert (lattice.down(below), lattice.up(above)) == (
            float(base) ** (exponent - 1),
            float(base) ** (exponent + 1),
        )


def test_multiples_are_exact_decimals() -> None:
    tenths = Lattice(step=Decimal("0.1"), origin=Decimal("0.05"))
    assert [tenths.down(0.3500000000000003), tenths.up(0.36), tenths.up(-0.2)] == [0.35, 0.45, -0.15]
    assert tenths.up(0.35) == tenths.down(0.35) == 0.35


def test_without_a_step_every_number_is_there() -> None:
    assert Lattice().up(0.1) == Lattice().down(0.1) == 0.1

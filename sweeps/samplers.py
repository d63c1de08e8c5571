"""Which point of the search space is tried next: Optuna's samplers, seeded anew for every trial.

A sampler that lives as long as the sweep would repeat itself when its process was killed; one that is made for a trial
from the seed of the sweep and the number of the trial proposes what the one before would have.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ..schemas.errors import InvalidInput
from ..schemas.sweeps import Algorithm, SweepSettings
from .parameters import GRID_POINTS

optuna.logging.set_verbosity(optuna.logging.WARNING)

#: Gaussian processes take time with the cube of the number of trials; above so many TPE goes on.
GP_TRIALS = 150

#: Trials drawn at random before a model is asked, at most.
_STARTUP_MAX = 10

#: Individuals of a generation of NSGA-II.
_POPULATION_MIN, _POPULATION_MAX = 4, 50


def check_algorithm(settings: SweepSettings, space: Mapping[str, BaseDistribution]) -> None:
    """Raise InvalidInput when the algorithm cannot search the space."""
    if settings.algorithm == "nsga2" and len(settings.metrics) < 2:
        raise InvalidInput("nsga2 optimises several metrics.", hint="Name two or three, or take bayesian.")
    if settings.algorithm != "nsga2" and len(settings.metrics) > 1:
        raise InvalidInput(f"{settings.algorithm} optimises one metric.", hint="Name one, or take nsga2.")
    if settings.algorithm == "cmaes":
        words = [name for name, kind in space.items() if isinstance(kind, CategoricalDistribution)]
        if words:
            raise InvalidInput(
                f"cmaes searches numbers only, and {', '.join(words)} has choices.",
                hint="Remove it from the parameters, or take tpe or bayesian.",
            )
        if len(space) < 2:
            raise InvalidInput("cmaes needs at least two parameters.", hint="Add one, or take tpe or bayesian.")


def make_sampler(settings: SweepSettings, number: int, seen: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that proposes trial `number` after `seen` others have ended."""
    algorithm: Algorithm = settings.algorithm
    # why not their sum: trial 1 of seed 0 and trial 0 of seed 1 would be the same
    seed = int(np.random.default_rng((settings.seed, number)).integers(2**32))
    startup = max(2, min(_STARTUP_MAX, settings.max_trials // 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if algorithm == "bayesian" and seen <= GP_TRIALS:
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        if algorithm in ("bayesian", "tpe"):
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True
            )
        if algorithm == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
        if algorithm == "nsga2":
            size = max(_POPULATION_MIN, min(_POPULATION_MAX, settings.max_trials // 4))
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=size)
    return optuna.samplers.RandomSampler(seed=seed)


def grid_points(grid: Mapping[str, Sequence[Any]], seed: int) -> list[dict[str, Any]]:
    """Return all points of a grid in an order that does not go along one axis after the other."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [points[place] for place in np.random.default_rng(seed).permutation(len(points))]


def grid_values(kind: BaseDistribution) -> list[Any]:
    """Return the values of a parameter in a grid: all of them, or `GRID_POINTS` of a number without steps."""
    if isinstance(kind, CategoricalDistribution):
        return list(kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.step is not None and not kind.log and (isinstance(kind, FloatDistribution) or kind.step > 1):
        steps = np.arange(kind.low, kind.high + kind.step / 2, kind.step)
    else:
        steps = (np.geomspace if kind.log else np.linspace)(kind.low, kind.high, GRID_POINTS)
    if isinstance(kind, IntDistribution):
        return sorted({round(float(value)) for value in steps})
    return [float(value) for value in steps]

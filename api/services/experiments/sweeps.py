"""What a search is asked to do: from the settings of an experiment, in the words of the API documents, to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ....networks.registry import Network
from ....schemas.actions import Action
from ....schemas.errors import InvalidInput
from ....schemas.sweeps import BY_RUNGS, SweepSettings

ENABLED = "automl_enabled"

#: What an experiment shows of a search as long as nobody has said anything else.
_DEFAULTS: Mapping[str, Any] = {
    ENABLED: False,
    "automl_algorithm": "bayesian",
    "automl_max_recommendations": 20,
    "automl_delete_intermediate_ckpt": True,
    "automl_R": 27,
    "automl_nu": 3,
    "epoch_multiplier": 1,
    "automl_add_hyperparameters": "",
    "automl_remove_hyperparameters": "",
    "override_automl_disabled_params": False,
}

#: Names of the API documents, and of what goes beyond them, by ours.
WORDS = {
    "algorithm": "automl_algorithm",
    "metrics": "automl_metrics",
    "max_trials": "automl_max_recommendations",
    "max_epochs": "automl_R",
    "epoch_multiplier": "epoch_multiplier",
    "reduction": "automl_nu",
    "delete_checkpoints": "automl_delete_intermediate_ckpt",
    "add": "automl_add_hyperparameters",
    "remove": "automl_remove_hyperparameters",
    "override_disabled": "override_automl_disabled_params",
    "ranges": "automl_ranges",
    "max_concurrent": "automl_max_concurrent",
    "seed": "automl_seed",
    "start_from_spec": "automl_start_from_spec",
    "warm_start": "automl_warm_start",
    "patience": "automl_patience",
    "max_seconds": "automl_max_seconds",
    "max_cost": "automl_max_cost",
}
#: Those that are a list of names, written as text.
_LISTS = ("add", "remove")
#: Networks whose training is no subject of a search; the API documents say so.
_WITHOUT = frozenset({"mal"})
#: What may change while a search goes on. With anything else it would be another search.
_MAY_CHANGE = frozenset(
    {"max_trials", "max_epochs", "patience", "max_seconds", "max_cost"}
    | {"max_concurrent", "delete_checkpoints", "cost_per_hour"}
)


def shown(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an experiment with the defaults of those that it has not."""
    return {**_DEFAULTS, **sweep}


def is_enabled(sweep: Mapping[str, Any]) -> bool:
    return bool(sweep.get(ENABLED))


def merged(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes; None takes one away."""
    return {name: value for name, value in {**before, **changes}.items() if value is not None}


def check_settings(network: Network, sweep: Mapping[str, Any], metric: str) -> None:
    """Refuse what is wrong whatever a training will be given: of a search that is off only what cannot be read.

    Raises:
        InvalidInput: a list of parameters that is none, or a search that cannot be.
    """
    for name in _LISTS:
        _read_names(sweep, WORDS[name])
    if is_enabled(sweep):
        read_settings(network, sweep, metric)


def read_settings(
    network: Network, sweep: Mapping[str, Any], metric: str, *, cost_per_hour: float = 0.0
) -> SweepSettings:
    """Return what a search of a network is asked to do. `metric` is that of the experiment.

    Raises:
        InvalidInput: with the name of what is wrong as a client knows it.
    """
    if network.name in _WITHOUT or Action.TRAIN not in network.specs:
        raise InvalidInput(f"{_at(ENABLED)}: {network.name} cannot be searched.", hint="PATCH it to false.")
    given = {name: sweep[word] for name, word in WORDS.items() if word in sweep}
    given |= {name: _read_names(sweep, WORDS[name]) for name in _LISTS}
    given["metrics"] = _read_metrics(network, sweep, metric)
    try:
        return SweepSettings(**given, cost_per_hour=cost_per_hour)
    except ValidationError as error:
        problems = [
            f"{_at(WORDS[str(first)])}{''.join(f'.{part}' for part in rest)}: {problem['msg']}"
            for problem in error.errors()
            for first, *rest in [problem["loc"]]
        ]
        raise InvalidInput("; ".join(problems) + ".") from error


def differences(network: Network, before: SweepSettings, now: SweepSettings) -> list[str]:
    """Return what makes another search of settings, as a client knows it; nothing when the search can go on by them."""
    old, new = before.model_dump(), now.model_dump()
    for settings in (old, new):  # who starts a search by hand may leave the metric to the network
        settings["metrics"] = list(network.find_metrics(settings["metrics"]))
    return [WORDS[name] for name in old if name not in _MAY_CHANGE and old[name] != new[name]]


def asks_for_more(before: SweepSettings, now: SweepSettings) -> bool:
    """Tell whether a search that has ended by its settings would go on by others."""
    # 0 and None are no limit
    return any(not (new := getattr(now, name)) or new > getattr(before, name) for name in _limits(before))


def limits_out(settings: SweepSettings) -> str:
    """Return what a search ends by, as a client knows it, with the values."""
    return ", ".join(f"{WORDS[name]} ({getattr(settings, name):.12g})" for name in _limits(settings))


def _limits(settings: SweepSettings) -> list[str]:
    found = ["max_epochs"] if settings.algorithm in BY_RUNGS else []
    found += ["max_trials"] if settings.algorithm != "hyperband" else []
    return found + [name for name in ("patience", "max_seconds", "max_cost") if getattr(settings, name)]


def _read_metrics(network: Network, sweep: Mapping[str, Any], metric: str) -> list[str]:
    several = sweep.get(WORDS["metrics"])
    try:
        return list(network.find_metrics(several or [metric]))
    except InvalidInput as error:
        raise InvalidInput(
            f"{_at(WORDS['metrics']) if several else 'metric'}: {error.message}", hint=error.hint
        ) from error


def _read_names(sweep: Mapping[str, Any], word: str) -> list[str]:
    """Return the names in a text that holds a list of them."""
    text = str(sweep.get(word) or "").strip()
    if not text:
        return []
    # why here: it loads Optuna, 40 MB that a yard without searches can do without
    from ....sweeps.space import parse_names

    try:
        return parse_names(text)
    except InvalidInput as error:
        raise InvalidInput(f"{_at(word)}: {error.message}", hint=error.hint) from error


def _at(word: str) -> str:
    return f"automl_settings.{word}"

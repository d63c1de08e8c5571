"""Settings of a search on the wire: every spelling comes down to one thing, and what is wrong is said at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from facade_support import Facade, Member
from prefect_trainyard.api.dialects.tao_v5.schemas import AutomlSettings
from prefect_trainyard.api.prices import Prices
from prefect_trainyard.api.services.experiments.sweeps import (
    WORDS,
    asks_for_more,
    check_settings,
    differences,
    limits_out,
    read_settings,
)
from prefect_trainyard.networks.registry import get_network
from prefect_trainyard.schemas.errors import InvalidInput
from prefect_trainyard.schemas.sweeps import SweepSettings
from sweep_support import DECAY, NETWORK, RATE, configure, searching
from v4_support import V4

KPI_NAME = "accuracy_top-1"
DEFAULTS = {
    "automl_enabled": False,
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
#: Settings on the wire, and how those of the sweep differ from its defaults.
MATRIX: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "bayesian of 4.0": ({"automl_algorithm": "Bayesian"}, {"algorithm": "bayesian"}),
    "hyperband of 4.0": (
        {"automl_algorithm": "HyperBand", "automl_R": 81, "automl_nu": 4, "epoch_multiplier": 2},
        {"algorithm": "hyperband", "max_epochs": 81, "reduction": 4, "epoch_multiplier": 2},
    ),
    "asha": ({"automl_algorithm": "ASHA", "automl_R": 9}, {"algorithm": "asha", "max_epochs": 9}),
    "tpe": (
        {"automl_algorithm": "tpe", "automl_max_recommendations": 5, "automl_delete_intermediate_ckpt": False},
        {"algorithm": "tpe", "max_trials": 5, "delete_checkpoints": False},
    ),
    "random": (
        {"automl_algorithm": "random", "automl_seed": 7, "automl_start_from_spec": False},
        {"algorithm": "random", "seed": 7, "start_from_spec": False},
    ),
    "grid": (
        {
            "automl_algorithm": "Grid",
            "automl_ranges": {RATE: {"choices": [0.1, 0.01]}, DECAY: {"low": 0.001, "high": 0.1}},
        },
        {"algorithm": "grid", "ranges": {RATE: {"choices": [0.1, 0.01]}, DECAY: {"low": 0.001, "high": 0.1}}},
    ),
    "cmaes": ({"automl_algorithm": "cmaes", "automl_max_concurrent": 2}, {"algorithm": "cmaes", "max_concurrent": 2}),
    "nsga2": (
        {"automl_algorithm": "nsga2", "automl_metrics": ["kpi", "loss"]},
        {"algorithm": "nsga2", "metrics": [KPI_NAME, "loss"]},
    ),
    "names as Python": (
        {
            "automl_add_hyperparameters": "['train.train_config.optimizer.momentum']",
            "automl_remove_hyperparameters": f"['{DECAY}']",
        },
        {"add": ["train.train_config.optimizer.momentum"], "remove": [DECAY]},
    ),
    "names as JSON text": ({"automl_remove_hyperparameters": f'["{DECAY}"]'}, {"remove": [DECAY]}),
    "names as JSON": ({"automl_remove_hyperparameters": [DECAY]}, {"remove": [DECAY]}),
    "no names": ({"automl_add_hyperparameters": "", "automl_remove_hyperparameters": "[]"}, {}),
    "names that are not offered": (
        {
            "automl_ranges": {"train.exp_config.manual_seed": {"low": 1, "high": 9}},
            "override_automl_disabled_params": True,
        },
        {"ranges": {"train.exp_config.manual_seed": {"low": 1.0, "high": 9.0}}, "override_disabled": True},
    ),
    "ends": ({"automl_patience": 3, "automl_max_seconds": 60}, {"patience": 3, "max_seconds": 60.0}),
}
DIALECTS = ("orgs", "users", "v4")


def patch(member: Member, owner: str, dialect: str, settings: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """PATCH the settings of an experiment as clients of a dialect do; return what it shows of them afterwards."""
    if dialect == "v4":
        path = owner.replace("experiments", "model")
        return dict(V4.of(member).ok("PATCH", path, {**settings, **fields}))
    body = {"automl_settings": settings, **fields} if dialect == "orgs" else {**settings, **fields}
    changed = member.client.patch(owner, content=json.dumps(body))
    assert changed.status_code == 200, changed.text
    if dialect == "users":
        assert changed.json()["automl_settings"].items() <= changed.json().items()
    return dict(changed.json()["automl_settings"])


def settings_of(member: Member, job_id: str) -> dict[str, Any]:
    return dict(member.facade.prefect.run(job_id)["parameters"]["settings"])


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("given", "expected"), MATRIX.values(), ids=MATRIX)
def test_every_spelling_comes_down_to_the_same_search(
    facade: Facade, dialect: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    member = facade.member(root="users" if dialect == "users" else "orgs")
    owner = f"experiments/{member.ready()}"
    shown = patch(member, owner, dialect, {"automl_enabled": True, **given})
    assert shown.items() >= {**DEFAULTS, "automl_enabled": True, **text_of(given)}.items()
    job_id = member.start(owner, "train")
    wanted = SweepSettings.model_validate({"metrics": [KPI_NAME], **expected})
    assert settings_of(member, job_id) == wanted.model_dump(mode="json", exclude_none=True)


def text_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return settings as answers print them."""
    shown = dict(given)
    if isinstance(names := shown.get("automl_remove_hyperparameters"), list):
        shown["automl_remove_hyperparameters"] = json.dumps(names)
    if "automl_algorithm" in shown:
        shown["automl_algorithm"] = shown["automl_algorithm"].lower()
    return shown


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_experiment_shows_the_defaults_of_the_documents(facade: Facade, dialect: str) -> None:
    member = facade.member(root="users" if dialect == "users" else "orgs")
    owner = f"experiments/{member.experiment()}"
    assert patch(member, owner, dialect, {}).items() >= DEFAULTS.items()


@pytest.mark.parametrize(
    ("metric", "expected"), [("kpi", KPI_NAME), ("", KPI_NAME), ("loss", "loss"), ("accuracy_top-5", "accuracy_top-5")]
)
def test_the_metric_of_the_experiment_is_what_is_optimised(ann: Member, metric: str, expected: str) -> None:
    owner = searching(ann)
    assert ann.client.patch(owner, content=json.dumps({"metric": metric})).status_code == 200
    assert settings_of(ann, ann.start(owner, "train"))["metrics"] == [expected]


#: Bodies of a PATCH of an experiment that is being searched, and what the error says.
BAD_PATCHES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown algorithm": ({"automl_settings": {"automl_algorithm": "annealing"}}, ["automl_algorithm", "nsga2"]),
    "algorithm is a number": ({"automl_algorithm": 5}, ["automl_algorithm"]),
    "names are none": ({"automl_settings": {"automl_add_hyperparameters": "lr"}}, ["automl_add_hyperparameters"]),
    "names are a call": ({"automl_add_hyperparameters": "[__import__('os')]"}, ["automl_add_hyperparameters"]),
    "names are numbers": ({"automl_remove_hyperparameters": "[1, 2]"}, ["automl_remove_hyperparameters"]),
    "list of numbers": ({"automl_remove_hyperparameters": [1]}, ["automl_remove_hyperparameters"]),
    "R is 0": ({"automl_R": 0}, ["automl_settings.automl_R", "greater than or equal to 1"]),
    "R is huge": ({"automl_settings": {"automl_R": 2**63 - 1}}, ["automl_settings.automl_R", "100000"]),
    "nu is 1": ({"automl_nu": 1}, ["automl_settings.automl_nu", "greater than or equal to 2"]),
    "no trials": ({"automl_max_recommendations": 0}, ["automl_settings.automl_max_recommendations"]),
    "metric of evaluate": ({"metric": "precision"}, ["metric", "accuracy_top-1, accuracy_top-5, loss", "kpi"]),
    "one of the metrics": (
        {"automl_metrics": ["loss", "f1"]},
        ["automl_settings.automl_metrics", "f1", "accuracy_top-5"],
    ),
    "four metrics": ({"automl_metrics": ["kpi", "loss", "accuracy_top-5", "kpi"]}, ["automl_metrics"]),
    "metrics are text": ({"automl_metrics": "loss"}, ["automl_metrics"]),
    "nobody at once": ({"automl_max_concurrent": 0}, ["automl_max_concurrent"]),
    "seed is negative": ({"automl_seed": -1}, ["automl_seed"]),
    "no time": ({"automl_settings": {"automl_max_seconds": 0}}, ["automl_max_seconds"]),
    "no money": ({"automl_max_cost": -1}, ["automl_max_cost"]),
    "ranges are a list": ({"automl_ranges": [1]}, ["automl_ranges"]),
    "range of unknown words": ({"automl_ranges": {RATE: {"from": 1}}}, ["automl_ranges", "from"]),
    "range without choices": ({"automl_ranges": {RATE: {"choices": []}}}, ["automl_ranges"]),
    "warm start is no id": ({"automl_warm_start": ["x"]}, ["automl_warm_start"]),
}


@pytest.mark.parametrize(("body", "words"), BAD_PATCHES.values(), ids=BAD_PATCHES)
def test_what_can_be_known_to_be_wrong_is_refused_at_once(ann: Member, body: dict[str, Any], words: list[str]) -> None:
    owner = searching(ann)
    before = ann.client.get(owner).json()
    answer = ann.client.patch(owner, content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert all(word in answer.json()["error_desc"] for word in words), answer.text
    assert ann.client.get(owner).json() == before
    path = owner.replace("experiments", "model")
    told = V4.of(ann).send("PATCH", path, body.get("automl_settings", body))
    assert told.status_code == 400 and "automl_settings." not in told.json()["error_desc"]


def test_numbers_that_the_document_allows_are_kept_until_somebody_searches(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    configure(ann, owner, automl_R=0, automl_nu=2**63 - 1)
    answer = ann.client.patch(owner, content='{"automl_settings": {"automl_enabled": true}}')
    assert answer.status_code == 400
    assert all(word in answer.json()["error_desc"] for word in ("automl_R", "automl_nu"))
    assert ann.client.get(owner).json()["automl_settings"]["automl_enabled"] is False
    made = {"network_arch": NETWORK, "encryption_key": "k", "automl_enabled": True, "automl_nu": 1}
    before = ann.client.get("experiments").json()
    assert ann.client.post("experiments", content=json.dumps(made)).status_code == 400
    assert ann.client.get("experiments").json() == before


def test_null_takes_a_setting_of_our_own_away_and_leaves_those_of_the_document(ann: Member) -> None:
    owner = searching(ann, automl_max_seconds=60, automl_seed=3, automl_R=9)
    configure(ann, owner, automl_max_seconds=None, automl_R=None)
    shown = ann.client.get(owner).json()["automl_settings"]
    assert "automl_max_seconds" not in shown and (shown["automl_seed"], shown["automl_R"]) == (3, 9)
    flat = ann.client.patch(owner, content='{"automl_seed": null}').json()
    assert "automl_seed" not in flat["automl_settings"]


BAD_SEARCHES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown parameter": ({"automl_add_hyperparameters": "['train.speed']"}, ["train.speed", RATE]),
    "parameter that is not offered": (
        {"automl_add_hyperparameters": "['train.exp_config.manual_seed']"},
        ["train.exp_config.manual_seed", "override"],
    ),
    "parameter of the search itself": (
        {
            "automl_add_hyperparameters": "['train.train_config.runner.max_epochs']",
            "override_automl_disabled_params": True,
        },
        ["max_epochs", "sets it itself"],
    ),
    "range of an unknown parameter": ({"automl_ranges": {"__prefect_kind": {"low": 1}}}, ["__prefect_kind"]),
    "range beyond the bounds": ({"automl_ranges": {RATE: {"low": 1, "high": 1e9}}}, [RATE]),
    "nothing to vary": (
        {"automl_remove_hyperparameters": [RATE, DECAY, "train.train_config.label_smoothing"]},
        ["nothing to vary", RATE],
    ),
    "several metrics": ({"automl_metrics": ["kpi", "loss"]}, ["one metric", "nsga2"]),
    "one metric": ({"automl_algorithm": "nsga2"}, ["several metrics"]),
    "cmaes with choices": (
        {
            "automl_algorithm": "cmaes",
            "automl_add_hyperparameters": "['train.train_config.optimizer.type']",
        },
        ["cmaes", "choices"],
    ),
    "grid without end": (
        {"automl_algorithm": "grid", "automl_ranges": {RATE: {"low": 0.001, "high": 1, "step": 0.000002}}},
        ["grid"],
    ),
    "no such job": ({"automl_warm_start": [str(uuid4())]}, ["automl_warm_start", "no job"]),
    "no prices": ({"automl_max_cost": 5}, ["automl_max_cost", "no prices", "automl_max_seconds"]),
}


@pytest.mark.parametrize(("settings", "words"), BAD_SEARCHES.values(), ids=BAD_SEARCHES)
def test_a_search_that_cannot_be_is_refused_and_leaves_nothing(
    ann: Member, settings: dict[str, Any], words: list[str]
) -> None:
    owner = searching(ann, **settings)
    before, runs = ann.facade.files_of(ann.org), ann.facade.prefect.count_runs()
    answer = ann.post_job(owner, "train")
    assert answer.status_code == 400, answer.text
    assert all(word in answer.json()["error_desc"] for word in words), answer.text
    assert ann.client.get(f"{owner}/jobs").json() == []
    assert ann.facade.prefect.count_runs() == runs and ann.facade.files_of(ann.org) == before


def test_a_search_needs_data_to_compare_its_trials_on(ann: Member) -> None:
    owner = f"experiments/{ann.experiment(train_datasets=[ann.filled()])}"
    configure(ann, owner, automl_enabled=True)
    answer = ann.post_job(owner, "train")
    assert answer.status_code == 400 and answer.json()["error_desc"].startswith("eval_dataset: ")


def test_searches_learn_from_searches_of_the_own_org_and_network_only(facade: Facade, ann: Member) -> None:
    eve = facade.member(user="eve")
    foreign = eve.start(searching(eve), "train")
    plain = ann.start(f"experiments/{ann.ready()}", "train")
    owner = searching(ann)
    earlier = ann.start(owner, "train")
    for job_id, words in ((foreign, "no job"), (plain, "no search")):
        configure(ann, owner, automl_warm_start=[earlier, job_id])
        answer = ann.post_job(owner, "train")
        assert answer.status_code == 400 and words in answer.json()["error_desc"] and job_id in answer.text
    configure(ann, owner, automl_warm_start=[earlier])
    assert settings_of(ann, ann.start(owner, "train"))["warm_start"] == [earlier]


# --- the rules themselves


def read(**sweep: Any) -> SweepSettings:
    return read_settings(get_network(NETWORK), {"automl_enabled": True, **sweep}, "kpi")


def test_every_setting_of_a_sweep_has_a_word_on_the_wire() -> None:
    # what an hour costs is the yard's to say
    assert {*WORDS, "cost_per_hour"} == set(SweepSettings.model_fields)
    assert {*WORDS.values(), "automl_enabled"} == set(AutomlSettings.model_fields)


def test_networks_that_cannot_be_searched_say_so() -> None:
    mal = replace(get_network(NETWORK), name="mal")
    without = replace(get_network(NETWORK), specs={})
    for network in (mal, without):
        check_settings(network, {"automl_R": 3}, "kpi")
        with pytest.raises(InvalidInput, match="automl_enabled"):
            check_settings(network, {"automl_enabled": True}, "kpi")


def test_only_limits_may_change_while_a_search_goes_on() -> None:
    network = get_network(NETWORK)
    same = {"automl_max_recommendations": 30, "automl_patience": 2, "automl_delete_intermediate_ckpt": False}
    assert differences(network, read(), read(**same)) == []
    assert differences(network, SweepSettings(), read()) == []  # the metric is that of the network
    other = {"automl_algorithm": "tpe", "automl_seed": 4, "automl_metrics": ["loss"]}
    assert differences(network, read(), read(**other)) == ["automl_algorithm", "automl_metrics", "automl_seed"]


#: What a search was asked to do, what it is asked to do now, and whether that is more.
MORE: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, False),
    ({}, {"automl_max_recommendations": 21}, True),
    ({}, {"automl_max_recommendations": 19}, False),
    ({}, {"automl_R": 81}, False),
    ({}, {"automl_max_seconds": 5}, False),
    ({"automl_algorithm": "hyperband"}, {"automl_R": 81}, True),
    ({"automl_algorithm": "hyperband"}, {"automl_max_recommendations": 50}, False),
    ({"automl_algorithm": "asha"}, {"automl_R": 81}, True),
    ({"automl_algorithm": "asha"}, {"automl_max_recommendations": 50}, True),
    ({"automl_max_seconds": 5}, {"automl_max_seconds": 6}, True),
    ({"automl_max_seconds": 5}, {"automl_max_seconds": None}, True),
    ({"automl_max_cost": 5}, {"automl_max_cost": 4}, False),
    ({"automl_max_cost": 5}, {"automl_max_cost": 6}, True),
    ({"automl_patience": 5}, {"automl_patience": 0}, True),
    ({"automl_patience": 5}, {"automl_patience": 4}, False),
]


@pytest.mark.parametrize(("before", "change", "more"), MORE)
def test_a_search_is_asked_for_more_by_what_it_ends_by(
    before: dict[str, Any], change: dict[str, Any], more: bool
) -> None:
    now = {name: value for name, value in {**before, **change}.items() if value is not None}
    assert asks_for_more(read(**before), read(**now)) is more


def test_what_a_search_ends_by_is_told_in_the_words_of_clients() -> None:
    assert limits_out(read()) == "automl_max_recommendations (20)"
    told = limits_out(read(automl_algorithm="asha", automl_patience=3, automl_max_seconds=60.0))
    assert told == "automl_R (27), automl_max_recommendations (20), automl_patience (3), automl_max_seconds (60)"


def test_an_hour_costs_what_it_costs_on_the_dearest_gpus() -> None:
    prices: Callable[..., Prices] = lambda **gpus: Prices(currency="EUR", cpu_hour=1.0, gpu_hour=gpus)  # noqa: E731
    assert prices().dearest_hour(cpus=1, gpus=2) == 1.0
    assert prices(H200=4.0, default=2.0).dearest_hour(cpus=1, gpus=2) == 9.0

from __future__ import annotations

import json
from typing import Any, Literal

import jsonschema
import pytest
from prefect_trainyard.networks.registry import networks
from prefect_trainyard.schemas.errors import SpecError
from prefect_trainyard.schemas.specs import Spec, leaves, parameter, parse_spec, section, spec_schema


class Runner(Spec):
    max_epochs: int = parameter(40, description="Epochs.", popular=True, ge=1, le=1000)
    policy: Literal["cosine", "step"] = parameter("cosine", description="Schedule.", automl_default=True)


class Demo(Spec):
    runner: Runner = section(Runner, description="How long.")
    seed: int | None = parameter(None, description="Seed.", ge=0)


def test_schema_has_everything_that_the_documents_ask_for() -> None:
    schema = spec_schema(Demo)
    assert schema["default"] == {"runner": {"max_epochs": 40, "policy": "cosine"}, "seed": None}
    assert schema["automl_default_parameters"] == ["runner.policy"]
    runner = schema["properties"]["runner"]
    assert runner["type"] == "object"
    assert runner["popular"] == ["max_epochs"]
    epochs = runner["properties"]["max_epochs"]
    assert epochs["type"] == "integer"
    assert (epochs["minimum"], epochs["maximum"], epochs["default"]) == (1, 1000, 40)
    assert epochs["description"] == "Epochs."
    assert runner["properties"]["policy"]["enum"] == ["cosine", "step"]
    assert schema["properties"]["seed"]["type"] == "integer"
    assert schema["properties"]["seed"]["nullable"] is True


class Searched(Spec):
    rate: float = parameter(
        0.01, description="Rate.", gt=0, le=10, automl_default=True, search=(1e-5, 0.1), log=True, title="Rate"
    )
    size: int = parameter(
        32, description="Size.", ge=1, le=512, automl=True, math_cond="/ 8", depends_on=">= runner.max_epochs", step=16
    )
    plain: int = parameter(0, description="Plain.")


def test_the_schema_says_what_a_sweep_does_with_a_parameter_and_no_more() -> None:
    schema = spec_schema(Searched)
    assert schema["automl_default_parameters"] == ["rate"]
    rate, size, plain = (schema["properties"][name] for name in ("rate", "size", "plain"))
    served = {"automl_enabled": True, "automl_minimum": 1e-5, "automl_maximum": 0.1, "automl_log": True}
    assert {k: v for k, v in rate.items() if k.startswith("automl")} == served
    assert "math_cond" not in rate and "depends_on" not in rate
    assert (rate["exclusiveMinimum"], rate["maximum"]) == (0, 10)
    assert {k: v for k, v in size.items() if k.startswith("automl")} == {"automl_enabled": True, "automl_step": 16}
    assert (size["math_cond"], size["depends_on"]) == ("/ 8", ">= runner.max_epochs")
    assert plain == {
        "automl_enabled": False,
        "default": 0,
        "description": "Plain.",
        "title": "Plain",
        "type": "integer",
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"log": True},
        {"log": True, "ge": 0},
        {"log": True, "ge": 1, "step": 2},
        {"math_cond": "* 2"},
        {"math_cond": "/ 0"},
        {"math_cond": "^ 1"},
        {"depends_on": "rate"},
        {"depends_on": "== rate"},
    ],
)
def test_a_search_that_cannot_be_is_an_error_of_who_writes_the_spec(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(log has|math_cond is|depends_on is) "):
        parameter(1, description="Wrong.", **wrong)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"runner": {"max_epochs": 0}}, ["runner.max_epochs", "greater than or equal to 1", "0"]),
        ({"runner": {"max_epochs": 1001}}, ["runner.max_epochs", "1000"]),
        ({"runner": {"max_epochs": "5"}}, ["runner.max_epochs", "integer"]),
        ({"runner": {"max_epochs": True}}, ["runner.max_epochs", "integer"]),
        ({"runner": {"max_epochs": 1.5}}, ["runner.max_epochs", "integer"]),
        ({"runner": {"max_epochs": None}}, ["runner.max_epochs"]),
        ({"runner": {"policy": "linear"}}, ["runner.policy", "'cosine' or 'step'"]),
        ({"runner": []}, ["runner"]),
        ({"training_config": {"num_epochs": 3}}, ["training_config", "another network", "runner"]),
        ([], ["JSON object"]),
        ("train", ["JSON object"]),
    ],
)
def test_a_wrong_value_is_named_with_its_path_and_bound(raw: object, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(Demo, raw)
    for word in words:
        assert word in str(caught.value)


def test_single_unknown_keys_are_tolerated() -> None:
    assert parse_spec(Demo, {"gpus": 1, "runner": {"max_epochs": 3, "unheard_of": 1}}).runner.max_epochs == 3


def test_no_spec_means_all_defaults() -> None:
    assert parse_spec(Demo, None) == Demo()


@pytest.mark.parametrize(
    ("network", "action"), [(n.name, a) for n in networks() for a in n.actions], ids=lambda value: str(value)
)
def test_every_spec_of_every_network(network: str, action: str) -> None:
    spec = next(n for n in networks() if n.name == network).spec(action)  # type: ignore[arg-type]
    schema = spec_schema(spec)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(schema["default"], schema)
    # Tutorials pass specs through a shell in single quotes.
    assert "'" not in json.dumps(schema["default"])
    assert parse_spec(spec, schema["default"]).model_dump(mode="json") == schema["default"]
    for path, field in leaves(spec):
        assert field.description, f"{path} has no description"
        assert field.description.endswith("."), f"the description of {path} is no sentence"

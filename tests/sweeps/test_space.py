from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from prefect_trainyard.networks.registry import get_network, networks
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.errors import InvalidInput
from prefect_trainyard.schemas.specs import Spec, leaves, parameter, parse_spec, section, spec_schema
from prefect_trainyard.schemas.sweeps import SweepSettings
from prefect_trainyard.sweeps.space import GRID_LIMIT, Space, build_space, parse_names
from pydantic import model_validator


class Crop(Spec):
    least: int = parameter(
        8, description="Least.", ge=1, le=64, automl=True, math_cond="/ 4", depends_on="<= crop.most"
    )
    most: int = parameter(32, description="Most.", ge=1, le=64, automl=True, step=2)

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        if self.least > self.most:
            raise ValueError("least <= most must hold")
        return self


class Chain(Spec):
    low: float = parameter(0.1, description="Low.", gt=0, lt=1, automl=True)
    middle: float = parameter(0.2, description="Middle.", gt=0, lt=1, automl=True, depends_on="> chain.low")
    top: int = parameter(1, description="Top.", ge=0, le=3, automl=True, depends_on="> chain.middle")

    @model_validator(mode="after")
    def _rising(self) -> Chain:
        if not self.low < self.middle < self.top:
            raise ValueError("low < middle < top must hold")
        return self


class Demo(Spec):
    rate: float = parameter(0.01, description="Rate.", gt=0, le=1, automl_default=True, search=(1e-4, None), log=True)
    batch: int = parameter(16, description="Batch.", ge=1, le=100, automl=True, log=True, math_cond="^ 2")
    share: float = parameter(0.25, description="Share.", ge=0, lt=1, automl=True)
    width: int = parameter(24, description="Width.", ge=1, le=100, automl=True, math_cond="/ 8")
    kind: Literal["a", "b", "c"] = parameter("a", description="Kind.", automl_default=True)
    flag: bool = parameter(False, description="Flag.", automl=True)
    free: float = parameter(0.5, description="Without an upper limit.", ge=0, automl_default=True)
    maybe: float | None = parameter(None, description="May be missing.", ge=0, le=10, automl=True)
    word: str = parameter("x", description="Word.", pattern="^[a-z]+$", automl=True)
    hidden: int = parameter(3, description="Not for sweeps.", ge=0, le=10)
    crop: Crop = section(Crop)
    chain: Chain = section(Chain)


EVERYTHING = [path for path, _ in leaves(Demo) if path not in ("free", "word", "hidden")]


def build(spec: dict[str, Any] | None = None, **wishes: Any) -> Space:
    return build_space(Demo, spec or {}, SweepSettings.model_validate(wishes))


def distribution(space: Space, path: str) -> BaseDistribution:
    return space.distributions[path]


# Which parameters


def test_a_space_has_what_the_spec_varies_by_itself_in_its_order() -> None:
    assert build().distributions == {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "kind": CategoricalDistribution(("a", "b", "c")),
    }


def test_parameters_are_added_removed_and_given_ranges() -> None:
    space = build(add=["share", "flag"], remove=["kind", "hidden"], ranges={"width": {"high": 40}})
    assert list(space.distributions) == ["rate", "share", "width", "flag"]
    assert distribution(space, "width") == IntDistribution(8, 40, step=8)
    assert distribution(space, "flag") == CategoricalDistribution((False, True))


def test_a_parameter_without_both_limits_keeps_its_value_unless_it_has_a_range() -> None:
    assert "free" not in build().distributions
    with pytest.raises(InvalidInput, match="free: it has no upper limit"):
        build(add=["free"])
    assert distribution(build(ranges={"free": {"high": 2}}), "free") == FloatDistribution(0, 2)
    with pytest.raises(InvalidInput, match="word: it is a string without"):
        build(add=["word"])
    chosen = build(ranges={"word": {"choices": ["x", "y"]}})
    assert distribution(chosen, "word") == CategoricalDistribution(("x", "y"))


def test_what_the_spec_does_not_offer_needs_an_override() -> None:
    for wish in ({"add": ["hidden"]}, {"ranges": {"hidden": {"low": 2}}}):
        with pytest.raises(InvalidInput, match="does not offer hidden"):
            build(**wish)
        assert "hidden" in build(**wish, override_disabled=True).distributions


@pytest.mark.parametrize("wish", [{"add": ["lr"]}, {"remove": ["lr"]}, {"ranges": {"lr": {}}}])
def test_an_unknown_name_is_refused_with_those_that_there_are(wish: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"no parameter 'lr'.* rate, batch, .*chain\.top") as refused:
        build(**wish)
    assert "hidden" not in str(refused.value)


def test_what_the_sweep_sets_itself_cannot_be_varied() -> None:
    wishes = SweepSettings(add=["share"])
    assert list(build_space(Demo, {}, wishes, reserved={"rate"}).distributions) == ["share", "kind"]
    with pytest.raises(InvalidInput, match="share: it sets it itself"):
        build_space(Demo, {}, wishes, reserved={"share"})


def test_a_sweep_over_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing to vary"):
        build(remove=["rate", "kind"])


# Ranges


@pytest.mark.parametrize(
    ("path", "wish", "words"),
    [
        ("rate", {"low": 0.0}, ["ranges.rate.low is 0", "above 0"]),
        ("rate", {"high": 2}, ["ranges.rate.high is 2", "at most 1"]),
        ("rate", {"low": 0.1, "high": 0.1}, ["from 0.1 to 0.1", "above 0 and at most 1"]),
        ("rate", {"low": 0.2, "high": 0.1}, ["from 0.2 to 0.1"]),
        ("rate", {"log": True, "step": 0.1}, ["log", "step"]),
        ("rate", {"step": 5}, ["not two values", "step"]),
        ("rate", {"step": 1e-300}, ["too small"]),
        ("share", {"high": 1}, ["ranges.share.high is 1", "below 1"]),
        ("share", {"low": -1}, ["at least 0"]),
        ("share", {"log": True}, ["cannot begin at 0", "ranges.share.low"]),
        ("width", {"low": 8.5}, ["whole number"]),
        ("width", {"low": 9, "high": 23}, ["not two values"]),
        ("width", {"step": 12}, ["multiple of 8"]),
        ("batch", {"step": 2}, ["power of 2"]),
        ("batch", {"low": 65}, ["not two values"]),
        ("batch", {"choices": [8], "low": 4}, ["choices and limits"]),
        ("batch", {"choices": [8, 101]}, ["101", "less than or equal to 100"]),
        ("batch", {"choices": [8, True]}, ["True", "integer"]),
        ("kind", {"choices": ["a", "z"]}, ["'z'", "'a', 'b' or 'c'"]),
        ("kind", {"low": 1}, ["no limits", "'a', 'b', 'c'"]),
        ("word", {"choices": ["x", "X"]}, ["'X'", "pattern"]),
        ("crop.least", {"low": 60}, ["crop.least", "<= crop.most, which is 32"]),
        ("maybe", {"low": -1e308, "high": 1e308}, ["at least 0"]),
    ],
)
def test_a_range_that_cannot_be_is_refused_with_its_name_and_bound(
    path: str, wish: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidInput) as refused:
        build(ranges={path: wish})
    for word in words:
        assert word in str(refused.value)


def test_open_bounds_are_not_in_the_space() -> None:
    drawn = distribution(build(add=["share"]), "share")
    assert isinstance(drawn, FloatDistribution)
    assert drawn.low == 0 < drawn.high < 1
    stepped = build({"chain": {"middle": 0.9}}, ranges={"chain.low": {"step": 0.25}})
    assert distribution(stepped, "chain.low") == FloatDistribution(0.25, 0.75, step=0.25)


def test_a_range_says_how_to_look() -> None:
    space = build(ranges={"rate": {"low": 0.1, "high": 0.75, "step": 0.2}, "width": {"log": True}})
    assert distribution(space, "rate") == FloatDistribution(0.1, 0.7, step=0.2)
    assert distribution(space, "width") == IntDistribution(8, 96, log=True)
    assert distribution(build(ranges={"rate": {"log": False}}), "rate") == FloatDistribution(1e-4, 1.0)


def test_too_many_choices_are_refused() -> None:
    choices = [i / 2000 for i in range(1, 1000)]
    with pytest.raises(InvalidInput, match="1002 choices"):
        build(ranges={"rate": {"choices": choices}})


# Points


def test_the_first_trial_is_the_spec_as_it_is() -> None:
    spec = {"rate": 0.03, "kind": "c", "crop": {"most": 15}, "chain": {"top": 3}}
    space = build(spec, add=["batch", "width", "crop.most", "crop.least", "chain.top"])
    start = space.defaults()
    assert start == {path: space.values[path] for path in start}
    assert (start["rate"], start["crop.most"], start["chain.top"], start["width"]) == (0.03, 15, 3, 24)


def test_a_spec_outside_of_the_space_begins_at_its_nearest_point() -> None:
    wish = {"rate": {"high": 0.005}, "kind": {"choices": ["b", "c"]}, "width": {"low": 40}, "maybe": {"low": 4}}
    assert build(ranges=wish).defaults() == {"rate": 0.005, "width": 40, "kind": "b", "maybe": 7.0}


def test_numbers_are_brought_to_multiples_and_powers() -> None:
    space = build(ranges={"width": {"log": True}}, add=["batch"], remove=["rate", "kind"])
    assert distribution(space, "batch") == IntDistribution(1, 64, log=True)
    drawn = {n: space.effective({"batch": n, "width": n}) for n in (8, 11, 12, 46)}
    assert {n: values["batch"] for n, values in drawn.items()} == {8: 8, 11: 8, 12: 16, 46: 64}
    assert {n: values["width"] for n, values in drawn.items()} == {8: 8, 11: 8, 12: 16, 46: 48}
    assert type(drawn[8]["batch"]) is int


def test_a_parameter_is_bound_by_the_value_of_another() -> None:
    both = build(add=["crop.least", "crop.most"], remove=["rate", "kind"])
    # why 5: below 4 there would be no multiple of 4 for the other.
    assert distribution(both, "crop.most") == IntDistribution(5, 63, step=2)
    assert both.effective({"crop.least": 40, "crop.most": 15}) == {"crop.least": 12, "crop.most": 15}
    assert both.effective({"crop.least": 8, "crop.most": 15}) == {"crop.least": 8, "crop.most": 15}

    by_the_spec = build({"crop": {"most": 18}}, add=["crop.least"], remove=["rate", "kind"])
    assert distribution(by_the_spec, "crop.least") == IntDistribution(4, 16, step=4)
    the_bound_one_stays = build({"crop": {"least": 20}}, add=["crop.most"], remove=["rate", "kind"])
    assert distribution(the_bound_one_stays, "crop.most") == IntDistribution(21, 63, step=2)
    by_choices = build(
        add=["crop.least"], ranges={"crop.most": {"choices": [20, 7]}}, remove=["rate", "kind"]
    ).effective({"crop.least": 20, "crop.most": 7})
    assert by_choices == {"crop.least": 4, "crop.most": 7}
    with pytest.raises(InvalidInput, match=r"<= crop\.most, which is 3"):
        build(add=["crop.least"], ranges={"crop.most": {"choices": [20, 3]}})


class Stairs(Spec):
    first: int = parameter(1, description="First.", ge=1, le=10, automl_default=True)
    second: int = parameter(2, description="Second.", ge=1, le=10, automl_default=True, depends_on="> first")
    third: int = parameter(3, description="Third.", ge=1, le=10, automl_default=True, depends_on="> second")


def test_parameters_that_bound_each_other_leave_room_for_all() -> None:
    space = build_space(Stairs, {}, SweepSettings())
    ends = {"first": (1, 8), "second": (2, 9), "third": (3, 10)}
    assert space.distributions == {name: IntDistribution(*limits) for name, limits in ends.items()}
    assert space.effective({"first": 8, "second": 2, "third": 3}) == {"first": 8, "second": 9, "third": 10}


def test_a_point_changes_what_is_varied_and_nothing_else() -> None:
    spec = {"gpus": 1, "crop": {"most": 20}, "kind": "b"}
    before = copy.deepcopy(spec)
    space = build(spec, add=["crop.most", "chain.low"])
    made = space.apply({**space.defaults(), "rate": 0.5, "crop.most": 41, "chain.low": 0.125})
    assert made == {"gpus": 1, "crop": {"most": 41}, "kind": "b", "rate": 0.5, "chain": {"low": 0.125}}
    assert spec == before
    made["crop"]["most"] = 1  # type: ignore[index]
    assert spec == before


def test_a_point_of_another_space_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a point of this space"):
        build().effective({"rate": 0.1})


def values(kind: BaseDistribution) -> st.SearchStrategy[Any]:
    """Draw what a sampler of Optuna may draw, ends included."""
    if isinstance(kind, CategoricalDistribution):
        return st.sampled_from(kind.choices)
    assert isinstance(kind, FloatDistribution | IntDistribution)
    if kind.step and not kind.log:
        steps = round((kind.high - kind.low) / kind.step)
        return st.integers(0, steps).map(lambda k: kind.low + k * kind.step)
    if isinstance(kind, IntDistribution):
        return st.integers(kind.low, kind.high)
    return st.floats(kind.low, kind.high)


def offered(model: type[Spec]) -> list[str]:
    schema = spec_schema(model)

    def walk(level: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for name, leaf in level["properties"].items():
            found += walk(leaf, f"{prefix}{name}.") if "properties" in leaf else [(f"{prefix}{name}", leaf)]
        return found

    return [path for path, leaf in walk(schema, "") if leaf["automl_enabled"]]  # type: ignore[index]


SPACES = [
    (Demo, build(add=EVERYTHING, ranges={"free": {"high": 3, "step": 0.1}, "word": {"choices": ["x", "y"]}})),
    *(
        (
            network.spec(Action.TRAIN),
            build_space(network.spec(Action.TRAIN), {}, SweepSettings(add=offered(network.spec(Action.TRAIN)))),
        )
        for network in networks()
    ),
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), case=st.sampled_from(SPACES))
def test_every_drawn_spec_is_valid_and_its_values_are_stable(
    data: st.DataObject, case: tuple[type[Spec], Space]
) -> None:
    model, space = case
    params = {path: data.draw(values(kind), label=path) for path, kind in space.distributions.items()}
    effective = space.effective(params)
    assert space.effective(effective) == effective
    parsed = parse_spec(model, space.apply(params)).model_dump(mode="json")
    for path, kind in space.distributions.items():
        value: Any = parsed
        for name in path.split("."):
            value = value[name]
        assert value == effective[path]
        assert type(value) is type(effective[path])
        assert kind._contains(kind.to_internal_repr(value)), path


@pytest.mark.parametrize("name", [network.name for network in networks()])
def test_what_a_network_offers_can_be_searched_one_by_one_from_its_defaults(name: str) -> None:
    model = get_network(name).spec(Action.TRAIN)
    default = spec_schema(model)["automl_default_parameters"]
    assert default
    for path in offered(model):
        space = build_space(model, {}, SweepSettings(add=[path], remove=[other for other in default if other != path]))
        assert space.defaults() == {path: space.values[path]}


# Grids


def test_a_grid_has_all_choices_steps_and_powers_and_a_few_of_other_numbers() -> None:
    space = build(add=["batch", "width", "flag", "chain.top"], ranges={"share": {"high": 0.5, "step": 0.1}})
    assert space.grid() == {
        "rate": [0.0001, 0.001, 0.01, 0.1, 1.0],
        "batch": [1, 2, 4, 8, 16, 32, 64],
        "share": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5],
        "width": [8, 32, 48, 72, 96],
        "kind": ["a", "b", "c"],
        "flag": [False, True],
        "chain.top": [1, 2, 3],
    }


def test_a_grid_of_too_many_points_is_refused_before_it_is_made() -> None:
    with pytest.raises(InvalidInput, match=f"more than {GRID_LIMIT} points: .* of share"):
        build(ranges={"share": {"step": 1e-6}}, remove=["rate", "kind"]).grid()


# Names on the wire


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("  ", []),
        ("[]", []),
        ("['a.b', 'c']", ["a.b", "c"]),
        ('["a"]', ["a"]),
        (' [ "a", \'a\',\n"b", ] ', ["a", "b"]),
    ],
)
def test_names_come_as_a_python_list(text: str, names: list[str]) -> None:
    assert parse_names(text) == names


@pytest.mark.parametrize(
    "text",
    [
        *("a", "a, b", "'a'", "('a',)", "{'a'}", "['a', 1]", "['']", "[['a']]", "[a]", "['a'", "['\\x41']", "\0"),
        *("__import__('os')", "['a'] + ['b']", "['a'] * 9", "[f'{1}']", "[" * 4000, "-" * 4000 + "1", "null", "0x"),
        *("['" + "a" * 5000 + "']", str(["a"] * 501), "[b'a']", "'" * 4999, "(" * 150 + ")" * 150),
    ],
    ids=lambda text: text[:16],
)
def test_what_is_no_list_of_names_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_names(text)

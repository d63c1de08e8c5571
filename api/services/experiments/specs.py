"""Which spec an action takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ....datasets.formats import data_types, formats_of
from ....networks.registry import Network, get_network, networks
from ....schemas.actions import CONVERSIONS, Action
from ....schemas.errors import ActionNotAllowed, InvalidInput, NotFound, SpecError
from ....schemas.specs import Spec, parse_spec, spec_schema

#: A key that Prefect's server would evaluate in the parameters of a flow run.
_HYDRATED = "__prefect_kind"


class ConversionSpec(Spec):
    """Conversions of image folders have no parameters: the format says all."""


def find_network(name: str) -> Network:
    """Return a network that this yard has.

    Raises:
        InvalidInput: it has not; the message names those it has.
    """
    try:
        return get_network(name)
    except InvalidInput as error:
        known = ", ".join(network.name for network in networks())
        raise InvalidInput(f"network_arch: {name!r} is not available yet.", hint=f"Available here: {known}.") from error


def format_names(dataset_type: str) -> tuple[str, ...]:
    """Return the formats that data sets of a type may have.

    Raises:
        InvalidInput: there are no data sets of that type here.
    """
    if dataset_type not in data_types():
        known = ", ".join(data_types())
        raise InvalidInput(f"type: {dataset_type!r} is not available yet.", hint=f"Available here: {known}.")
    return tuple(kind.name for kind in formats_of(dataset_type))


def dataset_actions(dataset_type: str) -> tuple[Action, ...]:
    """Return the actions of data sets of a type."""
    format_names(dataset_type)
    return (Action.CONVERT, Action.DATASET_CONVERT)


def spec_model(action: str, network: str | None) -> type[Spec]:
    """Return the spec of an action of a network, or of data sets where `network` is None.

    Raises:
        ActionNotAllowed: there is no such action.
    """
    if network is None:
        allowed = tuple(sorted(CONVERSIONS))
        if action in allowed:
            return ConversionSpec
        what = "A data set"
    else:
        record = find_network(network)
        allowed = record.actions
        if action in allowed:
            return record.spec(Action(action))
        what = f"The network {network}"
    raise ActionNotAllowed(f"{what} has no action {action!r}.", hint=f"Its actions are {', '.join(allowed)}.")


@cache
def read_schema(action: str, network: str | None) -> Mapping[str, Any]:
    """Return the JSON schema of an action's spec.

    Raises:
        NotFound: there is no such action.
    """
    try:
        return spec_schema(spec_model(action, network))
    except ActionNotAllowed as error:
        raise NotFound("Action not found.", hint=str(error)) from error


def checked_spec(action: Action, network: str | None, raw: object) -> dict[str, Any]:
    """Return the known parameters of a spec as a job gets them.

    Raises:
        SpecError: with the path and the bound of every wrong value.
    """
    if _mentions(raw, _HYDRATED):
        raise SpecError(f"The spec holds the reserved key {_HYDRATED!r}.")
    return parse_spec(spec_model(action, network), raw).model_dump(mode="json", exclude_unset=True)


def _mentions(value: object, key: str) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if key in item:
                return True
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False


def wanted_gpus(parameters: Mapping[str, Any]) -> int:
    """Return how many GPUs a job can use: what the spec of a training says, one for every other action."""
    spec = parameters.get("spec") or {}
    sections = [spec, *(spec.get(name) for name in ("train", "training_config"))]
    for section in sections:
        if isinstance(section, Mapping) and (wanted := section.get("gpus") or section.get("num_gpus")):
            return int(wanted)
    return 1

"""Which spec an action takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ....datasets.formats import DataFormat, data_format, data_types, formats_of
from ....networks.registry import Network, get_network, networks
from ....schemas.actions import Action
from ....schemas.errors import ActionNotAllowed, InvalidInput, NotFound, SpecError
from ....schemas.specs import Spec, parse_spec, spec_schema
from ...catalog.models import Dataset

#: What has actions: a network, by its name, or the data sets of a format.
Subject = str | DataFormat

#: A key that Prefect's server would evaluate in the parameters of a flow run.
_HYDRATED = "__prefect_kind"


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


def dataset_kind(row: Dataset) -> DataFormat:
    """Return the format of a data set."""
    return data_format(row.format, row.type)


def dataset_actions(row: Dataset) -> tuple[Action, ...]:
    """Return the actions of a data set."""
    return tuple(dataset_kind(row).specs)


def any_kind(action: str, dataset_type: str | None) -> DataFormat:
    """Return a format of a type of data, or of any, that has the action where one has it: those have one spec.

    Raises:
        InvalidInput: there are no data sets of that type here.
    """
    if dataset_type is not None:
        format_names(dataset_type)
    kinds = [kind for known in ([dataset_type] if dataset_type else data_types()) for kind in formats_of(known)]
    return next((kind for kind in kinds if action in kind.specs), kinds[0])


def spec_model(action: str, subject: Subject) -> type[Spec]:
    """Return the spec of an action.

    Raises:
        ActionNotAllowed: there is no such action.
    """
    if isinstance(subject, str):
        specs, what = find_network(subject).specs, f"The network {subject}"
    else:
        specs, what = subject.specs, f"A data set of {subject.type} in the format {subject.name}"
    if action not in specs:
        known = f"Its actions are {', '.join(specs)}." if specs else "It has none."
        raise ActionNotAllowed(f"{what} has no action {action!r}.", hint=known)
    return specs[Action(action)]


@cache
def read_schema(action: str, subject: Subject) -> Mapping[str, Any]:
    """Return the JSON schema of an action's spec.

    Raises:
        NotFound: there is no such action.
    """
    try:
        return spec_schema(spec_model(action, subject))
    except ActionNotAllowed as error:
        raise NotFound("Action not found.", hint=str(error)) from error


def checked_spec(action: Action, subject: Subject, raw: object) -> dict[str, Any]:
    """Return the known parameters of a spec as a job gets them.

    Raises:
        SpecError: with the path and the bound of every wrong value.
    """
    if _mentions(raw, _HYDRATED):
        raise SpecError(f"The spec holds the reserved key {_HYDRATED!r}.")
    return parse_spec(spec_model(action, subject), raw).model_dump(mode="json", exclude_unset=True)


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
    train = spec.get("train")
    return int((train.get("num_gpus") if isinstance(train, Mapping) else None) or spec.get("gpus") or 1)

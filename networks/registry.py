"""Which networks there are and what each can do. Imports no torch: the API process reads this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..schemas.actions import Action
from ..schemas.errors import InvalidInput
from ..schemas.specs import Spec, leaves
from ..schemas.sweeps import KPI

#: Other distributions add networks by entry points of this group, each a `Network`.
ENTRY_POINT_GROUP = "prefect_trainyard.networks"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The record of one architecture."""

    name: str
    """As on the wire, for example `classification_pyt`."""
    family: str
    """Networks of one family share a trainer."""
    dataset_type: str
    dataset_formats: tuple[str, ...]
    """The first one is that of local folders with labels."""
    other_data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other types of data that it reads, with their formats."""
    specs: Mapping[Action, type[Spec]]
    """One spec per action that the network has."""
    key_metric: str
    """Name in `Output.kpi` of the number that ranks models."""
    maximize: bool
    metrics: tuple[str, ...]
    """What `evaluate` puts into `Output.kpi`, the key metric first; `accuracy.<task>` comes for tasks of the data."""
    training_metrics: Mapping[str, bool]
    """What training may measure on the evaluation data after an epoch -> whether larger is better."""
    epochs_parameter: str
    """Dotted name of the number of epochs in the spec of `train`."""
    metric_parameter: str | None
    """Dotted name of what the best epoch is best in, in the spec of `train`; any of `training_metrics`."""
    implementation: str
    """`package.module:NAME` of the object whose methods are the actions; importing it may take seconds."""
    library: str
    """What the architecture is made of, for example `timm` or `timm.create_model`."""
    licence: str
    quick: Mapping[Action, Mapping[str, Any]] = field(default_factory=dict)
    """Specs with which an action takes seconds on a few small items: what `testing.NetworkContract` runs."""
    aliases: tuple[str, ...] = ()
    """Other names under which clients know it."""

    @property
    def data(self) -> dict[str, tuple[str, ...]]:
        """Types of data that it reads, with their formats."""
        return {self.dataset_type: self.dataset_formats, **self.other_data}

    @property
    def actions(self) -> tuple[Action, ...]:
        return tuple(self.specs)

    def spec(self, action: Action) -> type[Spec]:
        """Return the spec model of `action`."""
        try:
            return self.specs[action]
        except KeyError:
            raise InvalidInput(
                f"The network {self.name} has no action '{action}'.",
                hint=f"Its actions are {', '.join(self.specs)}.",
            ) from None

    def find_metrics(self, names: Sequence[str]) -> dict[str, bool]:
        """Return what a sweep optimises, as in `training_metrics`; `kpi` and no names stand for the key metric.

        Raises:
            InvalidInput: training does not measure one.
        """
        found = {}
        for name in names or [KPI]:
            known = self.key_metric if name in ("", KPI) else name
            if known not in self.training_metrics:
                raise InvalidInput(
                    f"{self.name} does not measure {name!r} while it trains.",
                    hint=f"It measures {', '.join(self.training_metrics)}; {KPI} stands for {self.key_metric}.",
                )
            found[known] = self.training_metrics[known]
        return found


_networks: dict[str, Network] = {}
_aliases: dict[str, str] = {}


def register(network: Network) -> None:
    """Add a network; a second one of the same name or alias is an error of the programmer."""
    for name in (network.name, *network.aliases):
        if name in _networks or name in _aliases:
            raise RuntimeError(f"The network {name} is registered twice.")
    # why: specs ignore names that they do not know, so a wrong one here would be set without any effect.
    if Action.TRAIN in network.specs:
        known = {None, *(path for path, _ in leaves(network.specs[Action.TRAIN]))}
        for path in (network.epochs_parameter, network.metric_parameter):
            if path not in known:
                raise RuntimeError(f"The record of {network.name} names {path!r}, which its spec of train has not.")
    _networks[network.name] = network
    _aliases.update(dict.fromkeys(network.aliases, network.name))


def networks() -> tuple[Network, ...]:
    """Return all networks, by name."""
    _load_entry_points()
    return tuple(sorted(_networks.values(), key=lambda network: network.name))


def get_network(name: str) -> Network:
    """Return the network of that name or alias.

    Raises:
        InvalidInput: there is none; the message lists those there are.
    """
    try:
        return _networks[network_name(name)]
    except KeyError:
        raise InvalidInput(
            f"There is no network {name!r}.", hint=f"The networks here are {', '.join(sorted(_networks))}."
        ) from None


def network_name(word: str) -> str:
    """Return the name of the network that has `word` as its alias, else `word`."""
    _load_entry_points()
    return _aliases.get(word, word)


def load_implementation(network: Network) -> Any:
    """Import and return the object whose methods are the actions of the network."""
    module, _, attribute = network.implementation.partition(":")
    return getattr(import_module(module), attribute)


@cache
def _load_entry_points() -> None:
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        network = entry_point.load()
        if not isinstance(network, Network):
            raise RuntimeError(f"The entry point {entry_point.name} = {entry_point.value} is no Network.")
        register(network)

"""The networks and their specs as Markdown, for the documents and the command line. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..schemas.actions import Action
from ..schemas.specs import Spec, spec_schema
from .registry import Network, networks


def networks_table() -> str:
    """Return a row for every network."""
    rows = ["| network | family | library | actions | metrics |", "|---|---|---|---|---|"]
    for network in networks():
        metrics = ", ".join(f"`{name}`" for name in network.metrics)
        rows.append(
            f"| {_names(network)} | {network.family} | {network.library} ({network.licence}) "
            f"| {', '.join(network.actions)} | {metrics} |"
        )
    return "\n".join(rows)


def network_page(network: Network) -> str:
    """Return a page with the facts about a network and a table for the spec of each action."""
    data = " or ".join(
        f"`{kind}` in the formats {', '.join(f'`{word}`' for word in words)}" for kind, words in network.data.items()
    )
    parts = [
        f"# {_names(network)}",
        f"Family {network.family}, made of {network.library} ({network.licence}). It learns from data sets of the type "
        f"{data}. "
        f"The best model is the one with the {'highest' if network.maximize else 'lowest'} `{network.key_metric}`.",
    ]
    for actions, spec in _specs(network):
        parts += [f"## {', '.join(actions)}", spec_table(spec)]
    return "\n\n".join(parts) + "\n"


def spec_table(spec: type[Spec]) -> str:
    """Return a row for every parameter of a spec; those that sweeps vary by themselves have a star."""
    schema = spec_schema(spec)
    varied = set(schema["automl_default_parameters"])
    rows = ["| parameter | default | values | meaning |", "|---|---|---|---|"]
    for path, leaf in _leaves(schema):
        default = json.dumps(leaf["default"]) if "default" in leaf else ""
        star = " *" if path in varied else ""
        rows.append(f"| `{path}`{star} | `{_cell(default)}` | {_values(leaf)} | {_cell(leaf.get('description', ''))} |")
    return "\n".join(rows)


def _specs(network: Network) -> Iterator[tuple[list[Action], type[Spec]]]:
    """Yield each spec once, with the actions that take it."""
    specs = list(dict.fromkeys(network.specs.values()))
    for spec in specs:
        yield [action for action in network.actions if network.spec(action) is spec], spec


def _leaves(level: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, found in level["properties"].items():
        if "popular" in found and "properties" in found:
            yield from _leaves(found, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", found


def _values(leaf: Mapping[str, Any]) -> str:
    if "enum" in leaf:
        return ", ".join(f"`{value}`" for value in leaf["enum"])
    kind = {"array": "list"}.get(found := str(leaf.get("type", "")), found)
    low = leaf.get("minimum", leaf.get("exclusiveMinimum"))
    high = leaf.get("maximum", leaf.get("exclusiveMaximum"))
    above = "above " if "exclusiveMinimum" in leaf else ""
    below = "below " if "exclusiveMaximum" in leaf else ""
    if low is not None and high is not None:
        kind += f", {above}{low} to {below}{high}"
    elif low is not None:
        kind += f", {above}{low}" if above else f", at least {low}"
    if "multipleOf" in leaf:
        kind += f", a multiple of {leaf['multipleOf']}"
    return kind


def _names(network: Network) -> str:
    return ", ".join(f"`{name}`" for name in (network.name, *network.aliases))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

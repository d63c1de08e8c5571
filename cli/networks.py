"""`trainyard networks`: what can be trained, and the parameters of every action."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def networks(
    name: Annotated[str | None, typer.Argument(help="Show this network and the specs of its actions.")] = None,
    write: Annotated[Path | None, typer.Option(help="Write a page for every network into this folder.")] = None,
) -> None:
    """List the networks, ours and those of other installed packages, or show one."""
    from ..networks import registry
    from ..networks.tables import network_page, networks_table

    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        for network in registry.networks():
            (write / f"{network.name}.md").write_text(network_page(network), encoding="utf-8")
    elif name is not None:
        typer.echo(network_page(registry.get_network(name)), nl=False)
    else:
        typer.echo(networks_table())

"""`trainyard base`: pretrained weights that the experiments of all orgs may start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ..deployments.settings import storage_url
from ..schemas.errors import NotFound
from .access import HomeOption, read_settings

if TYPE_CHECKING:
    from ..blocks import ArtifactStorage

base = typer.Typer(no_args_is_help=True, help="Base experiments: pretrained weights for all orgs.")


@base.command("list")
def list_all(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False, home: HomeOption = None
) -> None:
    """Show all base experiments."""
    from ..api.services.experiments.base import stored

    found = sorted(stored(_storage(home)), key=lambda base: (base.network, base.path))
    if as_json:
        typer.echo(json.dumps([base.model_dump(mode="json") for base in found], indent=1))
        return
    for one in found:
        typer.echo(f"{one.id}  {one.path}  {one.network}, {one.size_bytes} bytes")


@base.command("add")
def add_one(
    weights: Annotated[Path, typer.Argument(help="A safetensors file.", exists=True, dir_okay=False)],
    network: Annotated[str, typer.Option(help="Network that they are for, such as classification_pyt.")],
    name: Annotated[str, typer.Option(help="Name that clients look for, such as pretrained_classification.")],
    version: Annotated[str, typer.Option(help="Mostly the backbone, such as resnet18.")],
    description: Annotated[str, typer.Option(help="What they are.")] = "",
    licence: Annotated[str, typer.Option(help="Under which terms they may be used.")] = "",
    home: HomeOption = None,
) -> None:
    """Add pretrained weights, of a job of this yard or from elsewhere; print the id."""
    from ..api.services.experiments.base import add

    made = add(
        _storage(home),
        weights,
        network=network,
        name=name,
        version=version,
        description=description,
        licence=licence,
    )
    typer.echo(str(made.id))


@base.command("remove")
def remove_one(
    base_id: Annotated[UUID, typer.Argument(help="Id of the base experiment.")], home: HomeOption = None
) -> None:
    """Remove pretrained weights; new jobs of experiments that name them fail then."""
    from ..api.services.experiments.base import stored
    from ..blocks import layout

    storage = _storage(home)
    if base_id not in {one.id for one in stored(storage)}:
        raise NotFound(f"There is no base experiment {base_id}.", hint="`trainyard base list` shows those there are.")
    storage.remove(layout.base_experiment(base_id))


def _storage(home: Path | None) -> ArtifactStorage:
    from ..blocks import ArtifactStorage

    settings = read_settings(home=home)
    return ArtifactStorage(url=storage_url(settings), endpoint_url=settings.storage_endpoint_url)

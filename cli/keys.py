"""`trainyard keys`: who may come in over REST."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from .access import HomeOption, read_settings

keys = typer.Typer(no_args_is_help=True, help="API keys: what clients exchange for a token.")


@keys.command("create")
def create(
    org: Annotated[str, typer.Option(help="Org that the key is for, letters and digits.")],
    user: Annotated[str, typer.Option(help="Name of the user.")],
    release: Annotated[str, typer.Option(help="API release that the client speaks.")] = "5.3",
    home: HomeOption = None,
) -> None:
    """Make an API key and print it, and nothing else. It is shown this once."""
    from ..api.services.accounts.keys import create_key

    typer.echo(create_key(_catalog(home), org, user, release))


@keys.command("list")
def list_all(home: HomeOption = None) -> None:
    """Show all keys by the prefix that tells them apart."""
    from ..api.services.accounts.keys import list_keys

    for key in list_keys(_catalog(home)):
        used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never"
        end = f"{key.revoked_at:%Y-%m-%d %H:%M}" if key.revoked_at else ""
        ended = (f"valid until {end}" if key.active else f"revoked {end}") if end else "valid"
        typer.echo(f"{key.prefix}  org={key.org} user={key.user} release={key.release} last used {used}  {ended}")


@keys.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="The key itself, or its prefix as `keys list` shows it.")],
    home: HomeOption = None,
) -> None:
    """Make a key useless at once, together with the tokens that it was exchanged for."""
    from ..api.services.accounts.keys import revoke_key

    info = revoke_key(_catalog(home), key)
    typer.echo(f"The key {info.prefix} of {info.user} in {info.org} is revoked.")


@keys.command("rotate")
def rotate(
    key: Annotated[str, typer.Argument(help="The key itself, or its prefix as `keys list` shows it.")],
    overlap_h: Annotated[float, typer.Option(help="Hours that the old key goes on working.", min=0, max=744)] = 24,
    home: HomeOption = None,
) -> None:
    """Make a new key for the holder of another one and print it, and nothing else. The old one ends a little later."""
    from ..api.services.accounts.keys import rotate_key

    typer.echo(rotate_key(_catalog(home), key, timedelta(hours=overlap_h)))


def _catalog(home: Path | None) -> str:
    from ..deployments.settings import catalog_url

    settings = read_settings(home=home)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    return catalog_url(settings)

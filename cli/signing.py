"""`trainyard signing-keys`: pairs of keys for clients that sign their requests."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .access import HomeOption, read_settings

signing_keys = typer.Typer(no_args_is_help=True, help="Keys of clients that sign requests (x-ncp- headers).")


@signing_keys.command("create")
def create(
    org: Annotated[str, typer.Option(help="Org that the key is for.")],
    user: Annotated[str, typer.Option(help="A member of the org.")],
    home: HomeOption = None,
) -> None:
    """Make a pair of keys and print it; the secret key is shown this once."""
    from ..api.services.accounts.signing import create_signing_key
    from ..deployments.settings import catalog_url

    settings = read_settings(home=home)
    access_key, secret = create_signing_key(catalog_url(settings), settings.home / "secrets.key", org, user)
    typer.echo(json.dumps({"access_key": access_key, "secret_key": secret}))


@signing_keys.command("list")
def show(home: HomeOption = None) -> None:
    """List all signing keys, without their secrets."""
    from ..api.services.accounts.signing import list_signing_keys
    from ..deployments.settings import catalog_url

    for key in list_signing_keys(catalog_url(read_settings(home=home))):
        state = "revoked" if key.revoked_at else "active"
        used = f"{key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
        typer.echo(f"{key.access_key}  {state:7}  {key.org}  {key.user}  {used}")


@signing_keys.command("revoke")
def revoke(access_key: Annotated[str, typer.Argument(help="The access key.")], home: HomeOption = None) -> None:
    """Refuse what is signed with a key from now on."""
    from ..api.services.accounts.signing import revoke_signing_key
    from ..deployments.settings import catalog_url

    revoke_signing_key(catalog_url(read_settings(home=home)), access_key)
    typer.echo(f"{access_key} is revoked.")

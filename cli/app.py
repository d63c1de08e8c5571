"""`trainyard`: start and stop a yard, see how it is and what its jobs do, hand out API keys, clean up.

Heavy modules are imported inside the commands: `trainyard --help` must not wait for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ..schemas.errors import YardError
from . import base, jobs, keys, networks, signing, upkeep
from .access import HomeOption, read_settings

if TYPE_CHECKING:
    from ..deployments.home import Home, YardState
    from ..deployments.settings import YardSettings

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0]
)
app.add_typer(keys.keys, name="keys")
app.add_typer(signing.signing_keys, name="signing-keys")
app.add_typer(jobs.jobs, name="jobs")
app.add_typer(upkeep.orgs, name="orgs")
app.add_typer(base.base, name="base")
app.command()(jobs.logs)
app.command()(upkeep.gc)
app.command()(networks.networks)

DOWN_TIMEOUT_S = 60.0


def main() -> None:
    """Run the command line; errors that are part of the interface are one line, not a traceback."""
    try:
        app()
    except YardError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    typer.echo(f"trainyard: {message}", err=True)
    raise SystemExit(1)


@app.command()
def up(
    home: HomeOption = None,
    host: Annotated[str | None, typer.Option(help="Address of the facade; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the facade; default 8470, 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes on this machine; default 1.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything answers.")] = False,
) -> None:
    """Start a yard: Prefect server, MLflow server, REST facade and workers."""
    from ..deployments.home import Home, already_up

    settings = read_settings(home=home, host=host, port=port, workers=workers)
    yard = Home(settings.home)
    if yard.is_locked():
        raise already_up(yard)
    _refuse_open_door(settings)
    if detach:
        _up_detached(settings, yard)
    else:
        from ..deployments.supervisor import Supervisor

        typer.echo(f"Starting a yard in {settings.home}; Ctrl-C stops it. `trainyard status` tells its addresses.")
        Supervisor(settings).run()


def _up_detached(settings: YardSettings, yard: Home) -> None:
    from ..deployments.supervisor import wait_until_ready

    yard.create()
    with (yard.logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "prefect_trainyard", "up", "--home", str(settings.home)),
                *("--host", settings.host, "--port", str(settings.port), "--workers", str(settings.workers)),
            ],
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        state = wait_until_ready(yard, process)
    except YardError:
        process.terminate()
        raise
    _print_addresses(state)


def _refuse_open_door(settings: YardSettings) -> None:
    """Refuse to listen where others can reach the facade as long as nobody has a key."""
    if _is_loopback(settings.host):
        return
    from ..api.services.accounts.keys import list_keys
    from ..deployments.settings import catalog_url

    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not any(key.active for key in list_keys(catalog_url(settings))):
        _fail(
            f"refusing to listen on {settings.host} without API keys. "
            "Make one with `trainyard keys create --org ORG --user USER` or leave --host out."
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@app.command()
def down(home: HomeOption = None) -> None:
    """Stop a yard. Running jobs get their grace and go on when it is up again."""
    from ..deployments.home import Home

    yard = Home(read_settings(home=home).home)
    state = yard.read_state()
    supervisor = state.supervisor.find() if state else None
    if supervisor is None:
        typer.echo(f"No yard is up in {yard.path}.")
        return
    supervisor.terminate()
    deadline = time.monotonic() + DOWN_TIMEOUT_S
    while yard.is_locked():
        if time.monotonic() > deadline:
            _fail(f"the yard in {yard.path} (process {supervisor.pid}) did not stop within {DOWN_TIMEOUT_S:.0f} s.")
        time.sleep(0.1)
    typer.echo(f"The yard in {yard.path} is down.")


@app.command()
def status(
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the addresses and the health of every part. The exit code is 0 when all of it answers."""
    from ..deployments.home import Home
    from ..deployments.supervisor import part_health

    yard = Home(read_settings(home=home).home)
    state = yard.read_state() if yard.is_locked() else None
    if state is None:
        if as_json:
            typer.echo(json.dumps({"up": False, "home": str(yard.path)}))
        else:
            typer.echo(f"No yard is up in {yard.path}.")
        raise SystemExit(3)
    health = part_health(state)
    if as_json:
        document = {
            "up": True,
            "home": str(yard.path),
            "ready": state.ready,
            "api_url": state.api_url,
            "prefect_url": state.prefect_url,
            "mlflow_url": state.mlflow_url,
            "parts": {name: {"healthy": healthy, "pid": state.parts[name].pid} for name, healthy in health.items()},
            "workers": [name for name, healthy in health.items() if name.startswith("worker") and healthy],
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        _print_addresses(state)
        for name, healthy in health.items():
            typer.echo(f"  {name:10} {'ok' if healthy else 'DOWN'}  (process {state.parts[name].pid})")
    raise SystemExit(0 if all(health.values()) else 1)


def _print_addresses(state: YardState) -> None:
    typer.echo(f"REST API    {state.api_url}/api/v1  (documentation: {state.api_url}/docs)")
    typer.echo(f"Prefect UI  {state.prefect_url}")
    typer.echo(f"MLflow UI   {state.mlflow_url}")

"""`trainyard orgs`, `trainyard gc`: what the operator of a yard looks after."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..deployments.settings import catalog_url, storage_url
from ..schemas.errors import InvalidInput
from .access import HomeOption, read_settings, read_state

if TYPE_CHECKING:
    from ..api.services.upkeep.garbage import Report
    from ..deployments.settings import YardSettings

orgs = typer.Typer(no_args_is_help=True, help="Orgs: their quotas, and what they keep.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", re.IGNORECASE)
_NO_LIMIT = "none"


@orgs.command("list")
def list_all(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show all orgs with their quotas and what they use."""
    from ..api.services.accounts.orgs import list_orgs

    found = list_orgs(catalog_url(read_settings(home=home)))
    if as_json:
        typer.echo(json.dumps([asdict(org) for org in found], indent=1))
        return
    for org in found:
        jobs = f"{org.running} of {_limit(org.max_running)} jobs running"
        storage = f"{size_text(org.storage_bytes)} of {_limit(org.max_storage_bytes, size_text)} stored"
        kept = f"keeps jobs for {_limit(org.keep_days, '{:g} days'.format, 'ever')}"
        newest = (
            f", and the newest {org.keep_jobs} of each owner" if org.keep_jobs and org.keep_days is not None else ""
        )
        typer.echo(f"{org.name}  {jobs}, {storage}, {kept}{newest}")


@orgs.command("set")
def set_one(
    org: Annotated[str, typer.Argument(help="Name of the org.")],
    max_running: Annotated[str | None, typer.Option(help="Jobs that may run at a time.")] = None,
    max_storage: Annotated[str | None, typer.Option(help="Room for data sets and jobs, for example 100G.")] = None,
    keep_days: Annotated[str | None, typer.Option(help="Jobs that ended longer ago are cleaned up.")] = None,
    keep_jobs: Annotated[str | None, typer.Option(help="Newest jobs of each owner that stay at any age.")] = None,
    home: HomeOption = None,
) -> None:
    """Change quotas of an org; `none` takes one away."""
    from ..api.services.accounts.orgs import set_quota

    changes: dict[str, Any] = {}
    for name, text, parse in (
        ("max_running", max_running, _whole),
        ("max_storage_bytes", max_storage, parse_size),
        ("keep_days", keep_days, _number),
        ("keep_jobs", keep_jobs, _whole),
    ):
        if text is not None:
            changes[name] = None if text.lower() == _NO_LIMIT else parse(text)
    if not changes:
        raise InvalidInput("Nothing to change.", hint="Give for example --max-running 4.")
    set_quota(catalog_url(read_settings(home=home)), org, **changes)
    typer.echo(f"Changed {org}: {', '.join(name.replace('_', ' ') for name in changes)}.")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    org: Annotated[str | None, typer.Option("--org", help="Look at one org only.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, help="Delete jobs that ended so many days ago, whatever their org keeps.")
    ] = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Free what nobody needs any more: leftovers, files of nothing, jobs past their age. The yard does it daily."""
    age = timedelta(days=older_than) if older_than is not None else None
    report = asyncio.run(_collect(read_settings(home=home), dry_run, org, age))
    if as_json:
        items = [asdict(item) for item in report.items]
        kept = [{**asdict(job), "job_id": str(job.job_id)} for job in report.kept]
        document = {"dry_run": report.dry_run, "freed_bytes": report.freed_bytes, "items": items, "kept": kept}
        typer.echo(json.dumps(document, indent=1))
        return
    for item in report.items:
        typer.echo(f"{size_text(item.size_bytes):>10}  {item.kind:12} {item.name}")
    for job in report.kept:
        typer.echo(f"{'stays':>10}  {job.job_id}  {job.why}")
    typer.echo(f"{size_text(report.freed_bytes)} {'would be' if dry_run else 'were'} freed.")


async def _collect(settings: YardSettings, dry_run: bool, org: str | None, older_than: timedelta | None) -> Report:
    from ..api.services.container import Services
    from ..api.settings import ApiSettings

    state = read_state(settings)
    services = Services.build(
        ApiSettings(
            home=settings.home,
            database_url=catalog_url(settings),
            prefect_api_url=f"{state.prefect_url}/api",
            mlflow_url=state.mlflow_url or None,
            storage_url=storage_url(settings),
            storage_endpoint_url=settings.storage_endpoint_url,
        )
    )
    try:
        await services.catalog.upgrade()
        return await services.garbage.collect(dry_run=dry_run, org=org, older_than=older_than)
    finally:
        await services.close()


def parse_size(text: str) -> int:
    """Return the bytes of `100G`, `1.5T`, `4096`; units are powers of 1,024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"{text!r} is no size.", hint="Write for example 500M, 100G or 1.5T.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size_text(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def _limit(value: float | None, text: Any = str, nothing: str = "any number") -> str:
    return nothing if value is None else text(value)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise InvalidInput(f"{text!r} is no whole number.", hint="Or `none` for no limit.")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no number.", hint="Or `none` for no limit.") from error

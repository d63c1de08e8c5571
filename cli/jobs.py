"""`trainyard jobs`, `trainyard logs`: jobs as their users see them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from ..schemas.errors import NotFound, YardError
from .access import Access, HomeOption, KeyOption, UrlOption, fetch, list_jobs, read_settings, said

if TYPE_CHECKING:
    import httpx

jobs = typer.Typer(no_args_is_help=True, help="Jobs: list them, look at one.")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
OrgOption = Annotated[str | None, typer.Option("--org", help="Org; needed where the home has several.")]
JobArgument = Annotated[UUID, typer.Argument(help="Id of the job.")]

_RECONNECT_S = 1.0
#: A sign of life comes every 15 s.
_SILENCE_S = 45.0


@jobs.command("list")
def list_all(
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="So many of the newest.")] = 20,
    as_json: JsonOption = False,
    org: OrgOption = None,
    home: HomeOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Show the newest jobs of an org."""
    with _access(home, url, key).connect(org) as client:
        found = list_jobs(client, limit)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for job in found:
        message = str(job["result"].get("message", ""))
        typer.echo(
            f"{job['id']}  {job['created_on'][:19]}  {job['action']:15} {job['status']:9} {message[:60]}".rstrip()
        )


@jobs.command("show")
def show(job: JobArgument, home: HomeOption = None, url: UrlOption = None, key: KeyOption = None) -> None:
    """Print everything that is known of a job, as JSON."""
    access = _access(home, url, key)
    with access.connect(job_id=job) as client:
        typer.echo(json.dumps(fetch(client, access.find_job(client, job)), indent=1))


def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    home: HomeOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Print the log of a job."""
    access = _access(home, url, key)
    try:
        if follow:
            _follow(access, job)
        else:
            _print(access, job)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()


def _access(home: HomeOption, url: str | None, key: str | None) -> Access:
    return Access(settings=read_settings(home=home), url=url, key=key)


def _print(access: Access, job: UUID) -> None:
    with (
        access.connect(job_id=job) as client,
        client.stream("GET", f"{access.find_job(client, job)}/logs") as answer,
    ):
        if answer.status_code != 200:
            answer.read()
            raise NotFound(said(answer))
        for chunk in answer.iter_bytes():
            sys.stdout.buffer.write(chunk)
    sys.stdout.flush()


def _follow(access: Access, job: UUID) -> None:
    """Print lines as they come; a facade that is away for a while is waited for, from the first connection on."""
    cursor: str | None = None
    connected = False
    while True:
        try:
            with access.connect(job_id=job) as client:
                path = access.find_job(client, job)
                connected = True
                for place, text in _events(client, path, cursor):
                    if text is None:
                        return
                    sys.stdout.write(text + "\n")
                    sys.stdout.flush()
                    cursor = place
        except YardError as error:
            if not connected or error.status not in (500, 503):
                raise
        time.sleep(_RECONNECT_S)


def _events(client: httpx.Client, path: str, cursor: str | None) -> Iterator[tuple[str | None, str | None]]:
    """Give the id and the text of each line; a text of None is the end. It stops where the connection breaks."""
    import httpx

    headers = {"Last-Event-ID": cursor} if cursor else {}
    timeout = httpx.Timeout(30, read=_SILENCE_S)
    try:
        with client.stream(
            "GET", f"{path}/logs", params={"follow": "true"}, headers=headers, timeout=timeout
        ) as answer:
            if answer.status_code != 200:
                answer.read()
                error = YardError(said(answer))
                error.status = answer.status_code
                raise error
            for fields in _parsed(answer.iter_bytes()):
                if fields.get("event") == "end":
                    yield cursor, None
                elif "data" in fields:
                    cursor = fields.get("id", cursor)
                    yield cursor, fields["data"]
    except httpx.HTTPError:
        return


def _parsed(chunks: Iterator[bytes]) -> Iterator[dict[str, str]]:
    """Give the fields of each complete event."""
    rest, fields = b"", dict[str, str]()
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if not line:
                yield fields
                fields = {}
                continue
            name, _, value = line.decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and "data" in fields else value

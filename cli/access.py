"""How the command line reaches a facade: with an API key from anywhere, or as the owner of the home it runs from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from ..schemas.errors import InvalidInput, NotAuthenticated, NotFound, Unavailable, YardError

if TYPE_CHECKING:
    import httpx

    from ..api.catalog.models import Job
    from ..deployments.home import YardState
    from ..deployments.settings import YardSettings

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the yard; default ~/.trainyard.")]
UrlOption = Annotated[
    str | None, typer.Option("--url", envvar="TRAINYARD_URL", help="Address of a facade; default that of the home.")
]
KeyOption = Annotated[
    str | None, typer.Option("--key", envvar="TRAINYARD_KEY", help="API key; needed with --url.", show_default=False)
]

#: A token of the owner of the home lives so long; it is made anew for every connection.
_TOKEN_S = 600
_PAGE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Ways into a yard. Without `url` it is the yard of the home."""

    settings: YardSettings
    url: str | None = None
    key: str | None = None

    def connect(self, org: str | None = None, job_id: UUID | None = None) -> httpx.Client:
        """Return a client whose paths are below the org of the key, of the job, or the one that is named.

        Raises:
            Unavailable: the facade does not answer.
            NotAuthenticated: the key is not valid.
        """
        if self.url is not None:
            return self._by_key(self.url)
        return self._by_home(org, job_id)

    def _by_key(self, url: str) -> httpx.Client:
        import httpx

        if not self.key:
            raise InvalidInput("--key: it is needed with --url.", hint="Or set TRAINYARD_KEY.")
        base = f"{url.rstrip('/')}/api/v1"
        try:
            answer = httpx.post(f"{base}/login", json={"ngc_api_key": self.key}, timeout=30)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{url} does not answer: {error}", hint="Is it the address of a facade?") from error
        if answer.status_code in (401, 403):
            raise NotAuthenticated("The API key is not valid.", hint="`trainyard keys list` shows the keys of a yard.")
        if answer.status_code != 201:
            raise Unavailable(f"{url} answered {answer.status_code} to the login.", hint="Try again.")
        granted = answer.json()
        return _client(f"{base}/users/{granted['user_id']}/", granted["token"])

    def _by_home(self, org: str | None, job_id: UUID | None) -> httpx.Client:
        from ..api.auth import Grant, Tokens, load_key
        from ..api.services.accounts.keys import list_keys, user_id_of
        from ..deployments.settings import catalog_url

        state = read_state(self.settings)
        if job_id is not None:
            org = self._read_job(job_id).org
        keys = [key for key in list_keys(catalog_url(self.settings)) if key.active]
        found = sorted({key.org for key in keys})
        if org is None:
            if len(found) != 1:
                raise InvalidInput("--org: name one.", hint=f"This yard has {', '.join(found) or 'none yet'}.")
            org = found[0]
        # why: a token stands for a key, so that it ends with it; the owner of the home may use any
        key = next((key for key in keys if key.org == org), None)
        if key is None:
            raise NotFound(f"No API key of the org {org} is valid.", hint="Make one with `trainyard keys create`.")
        tokens = Tokens(load_key(self.settings.home / "token.key"), _TOKEN_S)
        token = tokens.issue(Grant(user_id=user_id_of(key.user), org=org, key_id=key.id))
        return _client(f"{state.api_url}/api/v1/orgs/{org}/", token)

    def find_job(self, client: httpx.Client, job_id: UUID) -> str:
        """Return the path of a job: it lies below its experiment or data set.

        Raises:
            NotFound: there is no such job.
        """
        if self.url is None:
            job = self._read_job(job_id)
            owner = f"experiments/{job.experiment_id}" if job.experiment_id else f"datasets/{job.dataset_id}"
            return f"{owner}/jobs/{job_id}"
        for job_out in list_jobs(client):
            if job_out["id"] == str(job_id):
                return path_of(job_out)
        raise NotFound(f"There is no job {job_id}.")

    def _read_job(self, job_id: UUID) -> Job:
        from ..api.catalog import Catalog
        from ..api.catalog.models import Job
        from ..deployments.settings import catalog_url

        async def read() -> Job | None:
            catalog = Catalog(catalog_url(self.settings))
            try:
                await catalog.upgrade()
                async with catalog.reading() as session:
                    return await session.get(Job, job_id)
            finally:
                await catalog.close()

        job = asyncio.run(read())
        if job is None:
            raise NotFound(f"There is no job {job_id}.", hint="`trainyard jobs list` shows all.")
        return job


def read_settings(**flags: object) -> YardSettings:
    """Return the settings of a yard; flags that are None were not given."""
    from pydantic import ValidationError

    from ..deployments.settings import load_settings

    try:
        return load_settings(flags)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise InvalidInput("; ".join(problems)) from error


def read_state(settings: YardSettings) -> YardState:
    """Return the addresses of the yard in the home.

    Raises:
        Unavailable: none is up.
    """
    from ..deployments.home import Home

    state = Home(settings.home).read_state()
    if state is None:
        raise Unavailable(f"No yard is up in {settings.home}.", hint="Start it with `trainyard up`, or give --url.")
    return state


def list_jobs(client: httpx.Client, limit: int | None = None) -> list[dict[str, Any]]:
    """Return jobs of the org, newest first."""
    found: list[dict[str, Any]] = []
    for owner in ("experiments", "datasets"):
        of_owner: list[dict[str, Any]] = []
        while limit is None or len(of_owner) < limit:
            size = _PAGE if limit is None else min(_PAGE, limit - len(of_owner))
            page = fetch(client, f"{owner}/*/jobs", skip=len(of_owner), size=size)
            page = page["jobs"] if isinstance(page, dict) else page
            of_owner += page
            if len(page) < size:
                break
        found += of_owner
    found.sort(key=lambda job: str(job["created_on"]), reverse=True)
    return found[:limit]


def path_of(job_out: dict[str, Any]) -> str:
    experiment = job_out.get("experiment_id")
    owner = f"experiments/{experiment}" if experiment else f"datasets/{job_out['dataset_id']}"
    return f"{owner}/jobs/{job_out['id']}"


def fetch(client: httpx.Client, path: str, **query: Any) -> Any:
    """GET JSON; what the facade says of a fault is raised in its words."""
    import httpx

    try:
        answer = client.get(path, params=query)
    except httpx.HTTPError as error:
        raise Unavailable(f"The facade does not answer: {error}") from error
    if answer.status_code >= 400:
        raise YardError(said(answer))
    return answer.json()


def said(answer: httpx.Response) -> str:
    """Return what the facade says of a fault."""
    try:
        return str(answer.json()["error_desc"])
    except (ValueError, KeyError, TypeError):
        return f"The facade answered {answer.status_code}."


def _client(base_url: str, token: str) -> httpx.Client:
    import httpx

    return httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {token}"}, timeout=60)

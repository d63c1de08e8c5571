"""MLflow's model registry and the files behind it, over REST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from ....schemas.errors import NotAvailable, NotFound, Unavailable

#: Scheme of files that lie with the MLflow server; others were put elsewhere by whoever set it up so.
_OWN = "mlflow-artifacts"
_FILES = "mlflow-artifacts/artifacts"
_MISSING, _PRESENT = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """The model that a job recorded with its run, and its folder."""

    id: str
    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    source: str
    tags: Mapping[str, str]


class ModelRegistry:
    def __init__(self, url: str | None) -> None:
        self._client = (
            httpx.AsyncClient(base_url=f"{url}/api/2.0/", timeout=httpx.Timeout(30, write=300), trust_env=False)
            if url
            else None
        )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def run_folder(self, run_id: str) -> str:
        """Return the address of the files of a run; `NotFound` when MLflow does not have it any more."""
        run = (await self._call("GET", "mlflow/runs/get", {"run_id": run_id}))["run"]["info"]
        return str(run["artifact_uri"])

    async def logged_model(self, run_id: str) -> LoggedModel | None:
        run = (await self._call("GET", "mlflow/runs/get", {"run_id": run_id}))["run"]["info"]
        wanted = {"experiment_ids": [run["experiment_id"]], "filter": f"source_run_id = '{run_id}'", "max_results": 1}
        for model in (await self._call("POST", "mlflow/logged-models/search", wanted)).get("models", []):
            return LoggedModel(id=model["info"]["model_id"], uri=model["info"]["artifact_uri"])
        return None

    async def versions(self, *, run_id: str, prefix: str) -> list[Version]:
        """Return the versions that come from a run, of models whose name starts with `prefix`."""
        found: list[Version] = []
        token = ""
        while True:
            asked = {
                "filter": f"run_id = '{run_id}'",
                "max_results": "1000",
                **({"page_token": token} if token else {}),
            }
            page = await self._call("GET", "mlflow/model-versions/search", asked)
            found += [
                Version(
                    name=v["name"],
                    number=str(v["version"]),
                    source=v.get("source", ""),
                    tags={tag["key"]: tag.get("value", "") for tag in v.get("tags", [])},
                )
                for v in page.get("model_versions", [])
                if v["name"].startswith(prefix)
            ]
            token = page.get("next_page_token") or ""
            if not token:
                return found

    async def create_model(self, name: str, tags: Mapping[str, str]) -> None:
        """Add a registered model, unless there is one."""
        body = {"name": name, "tags": _pairs(tags)}
        await self._call("POST", "mlflow/registered-models/create", body, fine=_PRESENT)

    async def create_version(
        self,
        name: str,
        *,
        source: str,
        run_id: str,
        model_id: str | None,
        description: str,
        tags: Mapping[str, str],
    ) -> Version:
        body: dict[str, Any] = {"name": name, "source": source, "run_id": run_id, "description": description}
        body |= {"tags": _pairs(tags), **({"model_id": model_id} if model_id else {})}
        made = (await self._call("POST", "mlflow/model-versions/create", body))["model_version"]
        return Version(name=name, number=str(made["version"]), source=source, tags=tags)

    async def delete_version(self, version: Version) -> None:
        body = {"name": version.name, "version": version.number}
        await self._call("DELETE", "mlflow/model-versions/delete", body, fine=_MISSING)

    async def delete_model_if_empty(self, name: str) -> None:
        asked = {"filter": f"name = '{name}'", "max_results": "1"}
        if not (await self._call("GET", "mlflow/model-versions/search", asked)).get("model_versions"):
            await self._call("DELETE", "mlflow/registered-models/delete", {"name": name}, fine=_MISSING)

    async def files(self, folder: str) -> list[str]:
        """Return the paths of all files below the address of a folder."""
        return [file async for file in self._below(_own_path(folder), PurePosixPath())]

    async def _below(self, top: str, inner: PurePosixPath) -> AsyncIterator[str]:
        path = str(PurePosixPath(top, inner))
        for entry in (await self._call("GET", _FILES, {"path": path})).get("files", []):
            name = inner / PurePosixPath(entry["path"]).name
            if entry.get("is_dir"):
                async for file in self._below(top, name):
                    yield file
            else:
                yield str(name)

    async def read_file(self, folder: str, name: str) -> bytes:
        response = await self._send("GET", _file_path(folder, name))
        return response.content

    async def write_file(self, folder: str, name: str, content: bytes | AsyncIterator[bytes]) -> None:
        await self._send("PUT", _file_path(folder, name), content=content)

    async def delete_folder(self, folder: str) -> None:
        await self._send("DELETE", f"{_FILES}/{quote(_own_path(folder))}", fine_status=404)

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, fine: str = ""
    ) -> Mapping[str, Any]:
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        response = await self._send(method, path, fine=fine, **sent)
        return dict(response.json()) if response.content else {}

    async def _send(
        self, method: str, path: str, *, fine: str = "", fine_status: int = 0, **sent: Any
    ) -> httpx.Response:
        if self._client is None:
            raise NotAvailable("This yard has no MLflow server.", hint="Its operator sets TRAINYARD_API_MLFLOW_URL.")
        try:
            response = await self._client.request(method, path, **sent)
            if response.status_code >= 400:
                code = response.json().get("error_code") if "json" in response.headers.get("content-type", "") else ""
                if (fine and code == fine) or response.status_code == fine_status:
                    return response
                if code == _MISSING or response.status_code == 404:
                    raise NotFound("MLflow does not have what the job recorded any more.", hint="Run the job again.")
            response.raise_for_status()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise Unavailable(f"MLflow does not answer {method} {path}: {type(error).__name__}.") from error
        return response


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _own_path(folder: str) -> str:
    parts = urlsplit(folder)
    if parts.scheme != _OWN:
        raise NotAvailable(
            f"The files of MLflow lie at {parts.scheme}://, where the facade cannot write.",
            hint="Publish the best checkpoint, which MLflow has already.",
        )
    return parts.path.strip("/")


def _file_path(folder: str, name: str) -> str:
    return f"{_FILES}/{quote(f'{_own_path(folder)}/{name}')}"

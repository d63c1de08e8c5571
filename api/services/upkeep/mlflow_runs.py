"""MLflow runs of jobs, over its REST API: what they keep in MLflow's own store, and whether its registry needs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx

from ....schemas.errors import Unavailable
from ....schemas.sweeps import SWEEP_TAG

#: What MLflow says of a run: its `info`.
MlflowRun: TypeAlias = Mapping[str, Any]

#: Tags with the id of the job that a run is of; those of trials have the second one, with that of their sweep.
_JOB_TAGS = ("trainyard.job_id", SWEEP_TAG)
_PAGE = 1000
#: Scheme of artifacts that lie with the MLflow server; others were put elsewhere by whoever set it up so.
_OWN = "mlflow-artifacts"


class MlflowRuns:
    """Runs, logged models and their files. Without an address there is no MLflow, and nothing of a job in it."""

    def __init__(self, url: str | None) -> None:
        self._client = httpx.AsyncClient(base_url=f"{url}/api/2.0/", timeout=30, trust_env=False) if url else None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def registered(self) -> frozenset[str]:
        """Return the ids of the runs that versions of registered models come from.

        Raises:
            Unavailable: MLflow does not answer.
        """
        if self._client is None:
            return frozenset()
        versions = await self._pages("GET", "mlflow/model-versions/search", {}, "model_versions")
        return frozenset(version["run_id"] for version in versions if version.get("run_id"))

    async def runs_of(self, org: str, job_id: UUID, run_id: str | None) -> list[MlflowRun]:
        """Return the MLflow runs of a job of an org: those with its tag, and the one that it wrote down itself.

        Those of its trials are among the runs of a sweep.
        """
        if self._client is None:
            return []
        found: dict[str, MlflowRun] = {}
        if run_id is not None and (run := (await self._call("GET", "mlflow/runs/get", {"run_id": run_id})).get("run")):
            found[run_id] = run["info"]
        named = {"filter": f"name LIKE '{org}/%'", "view_type": "ALL"}
        experiments = await self._pages("POST", "mlflow/experiments/search", named, "experiments")
        if ids := [experiment["experiment_id"] for experiment in experiments]:
            for tag in _JOB_TAGS:
                wanted = {"experiment_ids": ids, "filter": f"tags.`{tag}` = '{job_id}'", "run_view_type": "ALL"}
                for run in await self._pages("POST", "mlflow/runs/search", wanted, "runs"):
                    found[run["info"]["run_id"]] = run["info"]
        return list(found.values())

    async def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """Return the step and the value of each point of a metric, by step; none without MLflow or for no such run."""
        if self._client is None:
            return []
        points = await self._pages(
            "GET", "mlflow/metrics/get-history", {"run_id": run_id, "metric_key": key}, "metrics"
        )
        return sorted((int(point.get("step", 0)), float(point["value"])) for point in points)

    async def size(self, run: MlflowRun) -> int:
        """Return the bytes that a run and its logged models have in the store of MLflow."""
        return sum([await self._bytes_below(path) for path in await self._paths(run)])

    async def free(self, run: MlflowRun) -> int:
        """Delete a run, its logged models and the files of both; return the bytes of the files.

        MLflow's own deletion only marks the run and leaves all files where they are.
        """
        freed = 0
        models = await self._models(run)
        for path in await self._paths(run):
            freed += await self._bytes_below(path)
            await self._call("DELETE", f"mlflow-artifacts/artifacts/{quote(path)}")
        for model in models:
            await self._call("DELETE", f"mlflow/logged-models/{model['model_id']}")
        await self._call("POST", "mlflow/runs/delete", {"run_id": run["run_id"]})
        return freed

    async def _paths(self, run: MlflowRun) -> list[str]:
        """Return the folders of a run in MLflow's store, those of its models first."""
        uris = [*(model["artifact_uri"] for model in await self._models(run)), run["artifact_uri"]]
        return [parts.path.strip("/") for uri in uris if (parts := urlsplit(uri)).scheme == _OWN and parts.path != "/"]

    async def _models(self, run: MlflowRun) -> list[Mapping[str, Any]]:
        wanted = {"experiment_ids": [run["experiment_id"]], "filter": f"source_run_id = '{run['run_id']}'"}
        return [model["info"] for model in await self._pages("POST", "mlflow/logged-models/search", wanted, "models")]

    async def _bytes_below(self, path: str) -> int:
        listed = (await self._call("GET", "mlflow-artifacts/artifacts", {"path": path})).get("files", [])
        total = 0
        for file in listed:
            if file.get("is_dir"):
                total += await self._bytes_below(f"{path}/{file['path']}")
            else:
                total += int(file.get("file_size") or 0)
        return total

    async def _pages(self, method: str, path: str, body: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        token: str | None = None
        while True:
            asked = {**body, "max_results": _PAGE, **({"page_token": token} if token else {})}
            page = await self._call(method, path, asked)
            found += page.get(field, [])
            token = page.get("next_page_token")
            if not token:
                return found

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        """Send a request; what is not there any more counts as an empty answer."""
        assert self._client is not None
        sent: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
        try:
            response = await self._client.request(method, path, **sent)
            if response.status_code == 404:
                return {}
            response.raise_for_status()
            answer = response.json() if response.content else {}
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            raise Unavailable(f"MLflow does not answer {method} {path}: {error}") from error
        return dict(answer)

"""Flow runs of the Prefect server, over its REST API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx

from ...schemas.actions import Action
from ...schemas.errors import Conflict, NotFound, Unavailable, YardError
from ...schemas.jobs import TAG
from ...schemas.states import AWAITING_PARENT, JobState, job_state

#: Prefect never starts a run that is scheduled for this moment; the projector releases it.
FAR_FUTURE = "2999-12-31T00:00:00+00:00"
#: Most rows that Prefect answers at once.
PAGE = 200
_BULK = 50
#: More writers at once only make SQLite stall (see docs of the database in use).
_WRITERS = 4
_GIVE_UP_AFTER_S = 15.0
#: Deployments of our actions hand one of these to their runs; a run without a deployment gets it when it starts.
_JOB_TAGS = [f"{TAG}action:{action}" for action in Action]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """What the catalog needs to know of a flow run."""

    id: UUID
    deployment_id: UUID | None
    name: str
    state: JobState
    state_name: str
    state_at: datetime
    message: str
    tags: tuple[str, ...]
    parameters: Mapping[str, Any]
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> FlowRun | None:
        """Return a flow run of Prefect's JSON; None for one that has no state yet."""
        state = raw.get("state")
        if not state:
            return None
        return cls(
            id=UUID(raw["id"]),
            deployment_id=UUID(raw["deployment_id"]) if raw.get("deployment_id") else None,
            name=raw.get("name") or "",
            state=job_state(state["type"], state["name"]),
            state_name=state["name"],
            state_at=_time(state["timestamp"]),
            message=state.get("message") or "",
            tags=tuple(raw.get("tags") or ()),
            parameters=raw.get("parameters") or {},
            created_at=_time(raw["created"]),
            started_at=_time(raw["start_time"]) if raw.get("start_time") else None,
            ended_at=_time(raw["end_time"]) if raw.get("end_time") else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An action of a network or data set type that workers can run."""

    id: UUID
    action: Action
    subject: str
    """Name of the network, or of the data set type for conversions."""


class FlowRuns:
    """Creates, reads and moves flow runs; waits out short outages of the server."""

    def __init__(self, api_url: str, auth_string: str | None = None) -> None:
        headers = {}
        if auth_string:
            headers["Authorization"] = f"Basic {base64.b64encode(auth_string.encode()).decode()}"
        self.api_url = api_url
        self._client = httpx.AsyncClient(base_url=api_url, headers=headers, timeout=30, trust_env=False)
        self._writers = asyncio.Semaphore(_WRITERS)
        self._deployments: dict[UUID, Deployment] = {}

    async def close(self) -> None:
        await self._client.aclose()

    async def healthy(self) -> bool:
        try:
            return (await self._client.get("/health", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False

    async def deployments(self, refresh: bool = False) -> dict[UUID, Deployment]:
        """Return the deployments of our actions by id, from memory unless `refresh`."""
        if refresh or not self._deployments:
            found: dict[UUID, Deployment] = {}
            for offset in range(0, 10_000, PAGE):
                page = await self._call(
                    "POST",
                    "/deployments/filter",
                    {"flows": {"name": {"any_": list(Action)}}, "limit": PAGE, "offset": offset},
                )
                flows = await self._flow_names({raw["flow_id"] for raw in page})
                for raw in page:
                    deployment = Deployment(
                        id=UUID(raw["id"]), action=Action(flows[raw["flow_id"]]), subject=raw["name"]
                    )
                    found[deployment.id] = deployment
                if len(page) < PAGE:
                    break
            self._deployments = found
        return self._deployments

    async def create(
        self,
        action: Action,
        subject: str,
        *,
        parameters: Mapping[str, Any],
        tags: Sequence[str],
        name: str,
        job_variables: Mapping[str, Any] | None = None,
        awaiting: UUID | None = None,
    ) -> FlowRun:
        """Create a run of the deployment `action/subject`, due now or, with `awaiting`, when that run has ended.

        Raises:
            Unavailable: the server does not answer, or nobody has deployed the action.
        """
        state: dict[str, Any] = {"type": "SCHEDULED"}
        if awaiting is not None:
            state = {
                "type": "SCHEDULED",
                "name": AWAITING_PARENT,
                "message": f"Waiting for the parent job {awaiting}.",
                "state_details": {"scheduled_time": FAR_FUTURE},
            }
        body: dict[str, Any] = {
            "name": name,
            "parameters": dict(parameters),
            "state": state,
            "tags": list(tags),
            "labels": dict(tag.split(":", 1) for tag in tags),
            # why: a request whose answer got lost is sent again and must not start the job twice
            "idempotency_key": str(uuid4()),
        }
        if job_variables:
            body["job_variables"] = dict(job_variables)
        async with self._writers:
            for refresh in (False, True):
                deployment = await self._deployment(action, subject, refresh)
                try:
                    raw = await self._call("POST", f"/deployments/{deployment.id}/create_flow_run", body)
                    break
                except NotFound:  # deployed anew under another id
                    if refresh:
                        raise
        run = FlowRun.parse(raw)
        assert run is not None, "Prefect gives every new flow run a state"
        return run

    async def read(self, run_id: UUID) -> FlowRun:
        """Return a flow run; NotFound when it is gone."""
        run = FlowRun.parse(await self._call("GET", f"/flow_runs/{run_id}"))
        if run is None:
            raise NotFound(f"The flow run {run_id} has no state.")
        return run

    async def read_many(self, ids: Sequence[UUID]) -> list[FlowRun]:
        """Return those of the runs that exist."""
        runs: list[FlowRun] = []
        for start in range(0, len(ids), PAGE):
            wanted = [str(i) for i in ids[start : start + PAGE]]
            page = await self._call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": wanted}}, "limit": PAGE})
            runs += [run for raw in page if (run := FlowRun.parse(raw)) is not None]
        return runs

    async def read_jobs_page(self, offset: int) -> list[FlowRun]:
        """Return a page of all runs that are jobs and due by now, last expected start first."""
        due = {"before_": datetime.now(UTC).isoformat()}
        return await self._filter({"tags": {"any_": _JOB_TAGS}, "expected_start_time": due}, offset)

    async def read_waiting_page(self, offset: int) -> list[FlowRun]:
        """Return a page of the jobs that wait for their parent."""
        return await self._filter({"tags": {"any_": _JOB_TAGS}, "state": {"name": {"any_": [AWAITING_PARENT]}}}, offset)

    async def _filter(self, flow_runs: Mapping[str, Any], offset: int) -> list[FlowRun]:
        body = {"flow_runs": flow_runs, "sort": "EXPECTED_START_TIME_DESC", "limit": PAGE, "offset": offset}
        page = await self._call("POST", "/flow_runs/filter", body)
        return [run for raw in page if (run := FlowRun.parse(raw)) is not None]

    async def move(
        self, run_id: UUID, state_type: str, name: str | None = None, message: str | None = None, *, force: bool = False
    ) -> str:
        """Propose a state and return Prefect's verdict: ACCEPT, REJECT, ABORT or WAIT."""
        state = {"type": state_type, "name": name, "message": message}
        body = {"state": {k: v for k, v in state.items() if v is not None}, "force": force}
        async with self._writers:
            answer = await self._call("POST", f"/flow_runs/{run_id}/set_state", body)
        return str(answer["status"])

    async def move_waiting(self, ids: Sequence[UUID], state_type: str, message: str) -> None:
        """Move those of the runs that still wait for their parent."""
        for start in range(0, len(ids), _BULK):
            body = {
                "flow_runs": {
                    "id": {"any_": [str(i) for i in ids[start : start + _BULK]]},
                    "state": {"name": {"any_": [AWAITING_PARENT]}},
                },
                "state": {"type": state_type, "message": message},
                "limit": _BULK,
            }
            async with self._writers:
                await self._call("POST", "/flow_runs/bulk_set_state", body)

    async def delete(self, run_id: UUID) -> None:
        """Delete a flow run; absent is fine."""
        try:
            async with self._writers:
                await self._call("DELETE", f"/flow_runs/{run_id}")
        except NotFound:
            return

    async def _deployment(self, action: Action, subject: str, refresh: bool) -> Deployment:
        for again in (refresh, True):
            for deployment in (await self.deployments(refresh=again)).values():
                if deployment.action == action and deployment.subject == subject:
                    return deployment
        raise Unavailable(f"Nothing is deployed for {action}/{subject}.", hint="`trainyard status` shows what runs.")

    async def _flow_names(self, ids: set[str]) -> dict[str, str]:
        if not ids:
            return {}
        flows = await self._call("POST", "/flows/filter", {"flows": {"id": {"any_": sorted(ids)}}, "limit": PAGE})
        return {flow["id"]: flow["name"] for flow in flows}

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request; outages are waited out for a while, with the pauses of a busy SQLite in mind."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _GIVE_UP_AFTER_S
        pause_s = 0.05
        while True:
            try:
                response = await self._client.request(method, path, json=body)
            except httpx.HTTPError as error:
                problem: Exception | None = error
            else:
                if response.status_code < 400:
                    return response.json() if response.content else None
                if response.status_code == 404:
                    raise NotFound(f"Prefect does not know {path}.")
                if response.status_code in (400, 409, 422):
                    raise Conflict(f"Prefect refused: {_detail(response)}")
                if response.status_code < 500 and response.status_code != 429:
                    raise YardError(f"Prefect answered {response.status_code} to {method} {path}.")
                problem = None
            if loop.time() + pause_s > give_up_at:
                raise Unavailable("The Prefect server does not answer.") from problem
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)


def _detail(response: httpx.Response) -> str:
    try:
        detail = response.json().get("detail") or response.text
    except ValueError:
        detail = response.text
    return str(detail)[:500]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

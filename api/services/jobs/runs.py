"""Flow runs of the Prefect server, over its REST API."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID

import httpx

from ....deployments.swaps import Swap, put_back, swap
from ....schemas.actions import Action
from ....schemas.attempts import OWNER_LABEL, Priority
from ....schemas.errors import Conflict, NotFound, Unavailable, YardError
from ....schemas.jobs import TAG
from ....schemas.states import HELD_STATES, JobState, job_state
from ....schemas.sweeps import SWEEP_FLOW, SWEEP_TAG
from ..accounts.idempotency import new_id
from .holds import Held

#: Prefect never starts a run that is scheduled for this moment; the projector releases it.
FAR_FUTURE = "2999-12-31T00:00:00+00:00"
#: Most rows that Prefect answers at once.
PAGE = 200
#: Most runs that Prefect moves in one request.
BULK = 50
#: More writers at once only make SQLite stall (see docs of the database in use).
_WRITERS = 4
_GIVE_UP_AFTER_S = 15.0
#: Deployments of our actions hand one of these to their runs; a run without a deployment gets it when it starts.
_JOB_TAGS = [f"{TAG}action:{action}" for action in Action]
#: Types of Prefect's states that runs end in.
_ENDED = ("COMPLETED", "CANCELLED", "FAILED", "CRASHED")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRun:
    """What the catalog needs to know of a flow run."""

    id: UUID
    flow_id: UUID
    deployment_id: UUID | None
    name: str
    state: JobState
    state_type: str
    state_name: str
    state_at: datetime
    due_at: datetime | None
    """When it may start, while it is in the queue."""
    message: str
    tags: tuple[str, ...]
    labels: Mapping[str, object]
    infrastructure_pid: str
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
            flow_id=UUID(raw["flow_id"]),
            deployment_id=UUID(raw["deployment_id"]) if raw.get("deployment_id") else None,
            name=raw.get("name") or "",
            state=job_state(state["type"], state["name"]),
            state_type=state["type"],
            state_name=state["name"],
            state_at=_time(state["timestamp"]),
            due_at=_time(due) if (due := (state.get("state_details") or {}).get("scheduled_time")) else None,
            message=state.get("message") or "",
            tags=tuple(raw.get("tags") or ()),
            labels=raw.get("labels") or {},
            infrastructure_pid=raw.get("infrastructure_pid") or "",
            parameters=raw.get("parameters") or {},
            created_at=_time(raw["created"]),
            started_at=_time(raw["start_time"]) if raw.get("start_time") else None,
            ended_at=_time(raw["end_time"]) if raw.get("end_time") else None,
        )

    @property
    def owned(self) -> bool:
        """Whether a worker says that it has the run."""
        return bool(self.labels.get(OWNER_LABEL))

    @property
    def is_trial(self) -> bool:
        """Whether the run is a part of a sweep, and no job of its own."""
        return any(tag.startswith(f"{SWEEP_TAG}:") for tag in self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextState:
    """A state to move runs to."""

    type: str
    name: str | None = None
    message: str = ""
    far: bool = False
    """Not before `FAR_FUTURE`: held back."""
    suspends: bool = False
    """A pause without a process, which can be cancelled at once."""

    def body(self) -> dict[str, Any]:
        details: dict[str, Any] = {}
        if self.far:
            details["scheduled_time"] = FAR_FUTURE
        elif self.type == "SCHEDULED":
            details["scheduled_time"] = datetime.now(UTC).isoformat()
        if self.suspends:
            details["pause_reschedule"] = True
        body = {"type": self.type, "name": self.name, "message": self.message, "state_details": details or None}
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class PastState:
    """A state that a run was in."""

    type: str
    name: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A flow for a network or data set type that workers can run."""

    id: UUID
    flow: str
    """Name of an action, or `SWEEP_FLOW`."""
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
        self._flows: dict[str, str] = {}

    async def close(self) -> None:
        await self._client.aclose()

    async def healthy(self) -> bool:
        try:
            return (await self._client.get("/health", timeout=2)).status_code == 200
        except httpx.HTTPError:
            return False

    async def deployments(self, refresh: bool = False) -> dict[UUID, Deployment]:
        """Return the deployments of the flows of jobs by id, from memory unless `refresh`."""
        if refresh or not self._deployments:
            found: dict[UUID, Deployment] = {}
            for offset in range(0, 10_000, PAGE):
                page = await self._call(
                    "POST",
                    "/deployments/filter",
                    {"flows": {"name": {"any_": [*Action, SWEEP_FLOW]}}, "limit": PAGE, "offset": offset},
                )
                flows = await self._flow_names({raw["flow_id"] for raw in page})
                for raw in page:
                    deployment = Deployment(id=UUID(raw["id"]), flow=flows[raw["flow_id"]], subject=raw["name"])
                    found[deployment.id] = deployment
                if len(page) < PAGE:
                    break
            self._deployments = found
        return self._deployments

    async def create(
        self,
        flow: str,
        subject: str,
        *,
        parameters: Mapping[str, Any],
        tags: Sequence[str],
        name: str,
        job_variables: Mapping[str, Any] | None = None,
        priority: Priority = Priority.NORMAL,
        held: Held | None = None,
    ) -> FlowRun:
        """Create a run of the deployment `flow/subject`, due now or held back.

        Raises:
            Unavailable: the server does not answer, or nobody has deployed the flow.
        """
        state = NextState(type="SCHEDULED")
        if held is not None:
            state = NextState(type="SCHEDULED", name=held.name, message=held.sentence, far=True)
        body: dict[str, Any] = {
            "name": name,
            "parameters": dict(parameters),
            "state": state.body(),
            "work_queue_name": priority.work_queue,
            "tags": list(tags),
            "labels": dict(tag.split(":", 1) for tag in tags),
            # why: the parameters are from a checked model, and Prefect would check its own schema with them each time.
            "enforce_parameter_schema": False,
            # why: a request whose answer got lost is sent again and must not start the job twice
            "idempotency_key": str(new_id("flow run")),
        }
        if job_variables:
            body["job_variables"] = dict(job_variables)
        async with self._writers:
            for refresh in (False, True):
                deployment = await self._deployment(flow, subject, refresh)
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

    async def find_held(self, ids: Sequence[UUID]) -> set[UUID]:
        """Return many of the runs that are held back, for the price of one count per page of them.

        A page in which any run is not held back any more is left out as a whole.
        """
        found: set[UUID] = set()
        for start in range(0, len(ids), PAGE):
            some = ids[start : start + PAGE]
            held = {"id": {"any_": [str(i) for i in some]}, "state": {"name": {"any_": list(HELD_STATES)}}}
            if await self._call("POST", "/flow_runs/count", {"flow_runs": held}) == len(some):
                found.update(some)
        return found

    async def read_jobs_page(self, offset: int) -> list[FlowRun]:
        """Return a page of all runs that are jobs and due by now, last expected start first."""
        due = {"before_": datetime.now(UTC).isoformat()}
        return await self._filter({"tags": {"any_": _JOB_TAGS}, "expected_start_time": due}, offset)

    async def read_waiting_page(self, offset: int) -> list[FlowRun]:
        """Return a page of the jobs that are held back."""
        return await self._filter({"tags": {"any_": _JOB_TAGS}, "state": {"name": {"any_": list(HELD_STATES)}}}, offset)

    async def read_trials(self, sweep_id: UUID, *, live: bool = False) -> list[FlowRun]:
        """Return the runs of the trials of a sweep; with `live` only those that have not ended."""
        wanted: dict[str, Any] = {"tags": {"all_": [f"{SWEEP_TAG}:{sweep_id}"]}}
        if live:
            wanted["state"] = {"type": {"not_any_": _ENDED}}
        found: list[FlowRun] = []
        for offset in count(0, PAGE):
            page = await self._filter(wanted, offset, sort="ID_DESC")
            found += page
            if len(page) < PAGE:
                break
        return found

    async def is_sweep(self, run: FlowRun) -> bool:
        """Tell whether a run is a sweep, by the name of its flow: that of others calls it, too."""
        flow_id = str(run.flow_id)
        if flow_id not in self._flows:
            self._flows |= await self._flow_names({flow_id})
        return self._flows.get(flow_id) == SWEEP_FLOW

    async def read_upcoming_page(self, actions: Collection[Action], offset: int) -> list[FlowRun]:
        """Return a page of the runs of some actions that are set for later."""
        wanted = {
            "tags": {"any_": [f"{TAG}action:{action}" for action in sorted(actions)]},
            "state": {"type": {"any_": ["SCHEDULED"]}, "name": {"not_any_": list(HELD_STATES)}},
            "expected_start_time": {"after_": datetime.now(UTC).isoformat()},
        }
        return await self._filter(wanted, offset)

    async def _filter(
        self, flow_runs: Mapping[str, Any], offset: int, sort: str = "EXPECTED_START_TIME_DESC"
    ) -> list[FlowRun]:
        body = {"flow_runs": flow_runs, "sort": sort, "limit": PAGE, "offset": offset}
        page = await self._call("POST", "/flow_runs/filter", body)
        return [run for raw in page if (run := FlowRun.parse(raw)) is not None]

    async def propose(self, run_id: UUID, state: NextState) -> str:
        """Propose a state and return Prefect's verdict: ACCEPT, REJECT, ABORT or WAIT."""
        async with self._writers:
            answer = await self._call("POST", f"/flow_runs/{run_id}/set_state", {"state": state.body()})
        return str(answer["status"])

    async def move_from(
        self,
        ids: Sequence[UUID],
        state: NextState,
        *,
        types: Sequence[str] = (),
        names: Sequence[str] = (),
        force: bool = False,
    ) -> AsyncIterator[dict[UUID, datetime]]:
        """Move those of the runs that are in one of the states, by type or by name.

        Yield for one bulk after the other which runs were moved, and when. `force` passes by Prefect's rules.
        """
        guard = {"type": {"any_": list(types)}} if types else {}
        guard |= {"name": {"any_": list(names)}} if names else {}
        for start in range(0, len(ids), BULK):
            some = [str(i) for i in ids[start : start + BULK]]
            body = {
                "flow_runs": {"id": {"any_": some}, "state": guard},
                "state": state.body(),
                "force": force,
                "limit": BULK,
            }
            async with self._writers:
                answer = await self._call("POST", "/flow_runs/bulk_set_state", body)
            yield {
                UUID(result["flow_run_id"]): _time(result["state"]["timestamp"])
                for result in answer["results"]
                if result["status"] == "ACCEPT"
            }

    async def move_one(
        self,
        run_id: UUID,
        state: NextState,
        *,
        types: Sequence[str] = (),
        names: Sequence[str] = (),
        force: bool = False,
    ) -> bool:
        """Move a run if it is in one of the states; return whether it was."""
        return any([moved async for moved in self.move_from([run_id], state, types=types, names=names, force=force)])

    async def swap(
        self, run_id: UUID, state: NextState, *, types: Sequence[str] = (), names: Sequence[str] = ()
    ) -> Swap | None:
        """Move a run by force if it is in one of the states; return what was replaced by what, None if nothing was."""
        async with self._writers:
            return await swap(self._call, run_id, state.body(), types=types, names=names)

    async def put_back(self, run_id: UUID, wrong: Swap) -> None:
        """Set the state again that should not have been replaced."""
        async with self._writers:
            await put_back(self._call, run_id, wrong)

    async def forget_process(self, run_id: UUID) -> None:
        """Take the process id off a run that is back in the queue: Prefect then cancels it at once."""
        async with self._writers:
            await self._call("PATCH", f"/flow_runs/{run_id}", {"infrastructure_pid": ""})

    async def read_history(self, run_id: UUID) -> list[PastState]:
        """Return all states that a run was in, the first one first."""
        raw = await self._call("GET", f"/flow_run_states/?flow_run_id={run_id}")
        states = [PastState(type=s["type"], name=s["name"], at=_time(s["timestamp"])) for s in raw]
        return sorted(states, key=lambda state: state.at)

    async def read_online_workers(self, pool: str) -> list[str]:
        """Return the names of the workers of a work pool that the server hears of."""
        body = {"workers": {"status": {"any_": ["ONLINE"]}}, "limit": PAGE}
        try:
            found = await self._call("POST", f"/work_pools/{pool}/workers/filter", body)
        except NotFound:  # nobody has made the work pool yet
            return []
        return [worker["name"] for worker in found]

    async def read_variables(self, prefix: str) -> list[Mapping[str, Any]]:
        """Return the variables of the server whose names begin so."""
        body = {"variables": {"name": {"like_": prefix}}, "limit": PAGE}
        return [
            found for found in await self._call("POST", "/variables/filter", body) if found["name"].startswith(prefix)
        ]

    async def delete(self, run_id: UUID) -> None:
        """Delete a flow run; absent is fine."""
        try:
            async with self._writers:
                await self._call("DELETE", f"/flow_runs/{run_id}")
        except NotFound:
            return

    async def _deployment(self, flow: str, subject: str, refresh: bool) -> Deployment:
        for again in (refresh, True):
            for deployment in (await self.deployments(refresh=again)).values():
                if deployment.flow == flow and deployment.subject == subject:
                    return deployment
        raise Unavailable(f"Nothing is deployed for {flow}/{subject}.", hint="`trainyard status` shows what runs.")

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

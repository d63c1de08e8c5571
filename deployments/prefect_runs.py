"""The few requests about flow runs that worker, forkserver and reaper share.

Not Prefect's own client: after a failure that one sleeps for up to half a minute, and it sets states without
regard to what they are by then.
"""

from __future__ import annotations

import asyncio
import base64
import math
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

import httpx

from ..schemas.attempts import OWNER_LABEL
from ..schemas.errors import NotFound, Unavailable, YardError
from .swaps import FOLLOWERS, find_swap, put_back, swap

_PAGE = 200
_TIMEOUT_S = 15.0
_PAUSE_S, _PAUSE_MAX_S = 0.05, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A flow run as the server knows it at one moment."""

    id: UUID
    name: str
    state_id: str
    state_type: str
    state_name: str
    message: str
    suspended: bool
    labels: Mapping[str, Any]
    job_variables: Mapping[str, Any]
    expected_start_at: datetime | None
    has_process: bool
    retries_in_process: bool

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Run | None:
        """Return a run of Prefect's JSON; None for one that has no state yet."""
        state = raw.get("state")
        if not state:
            return None
        at = raw.get("expected_start_time")
        return cls(
            id=UUID(raw["id"]),
            name=raw.get("name") or "",
            **_state_fields(state),
            labels=raw.get("labels") or {},
            job_variables=raw.get("job_variables") or {},
            expected_start_at=datetime.fromisoformat(at) if at else None,
            has_process=bool(raw.get("infrastructure_pid")),
            retries_in_process=(raw.get("empirical_policy") or {}).get("retry_type") == "in_process",
        )

    @property
    def owner(self) -> str | None:
        """The process that has the run; empty when none has, None for runs that no worker of ours ever had."""
        owner = self.labels.get(OWNER_LABEL)
        return owner if isinstance(owner, str) else None


def _state_fields(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "state_id": state["id"],
        "state_type": state["type"],
        "state_name": state["name"],
        "message": state.get("message") or "",
        "suspended": state["type"] == "PAUSED" and bool((state.get("state_details") or {}).get("pause_reschedule")),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class NewState:
    """A state to set."""

    type: str
    name: str
    message: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        return {"type": self.type, "name": self.name, "message": self.message, "state_details": dict(self.details)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """When each worker of a pool was last heard of, by the server's clock."""

    now: datetime
    last: Mapping[str, datetime]
    online: frozenset[str]


class PrefectRuns:
    """Requests that wait out an outage of the server for `patience_s` seconds, then raise Unavailable."""

    def __init__(
        self,
        api_url: str,
        *,
        auth_string: str | None = None,
        api_key: str | None = None,
        verify: ssl.SSLContext | bool = True,
        patience_s: float = math.inf,
    ) -> None:
        headers = {}
        if auth_string:
            headers["Authorization"] = f"Basic {base64.b64encode(auth_string.encode()).decode()}"
        elif api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.patience_s = patience_s
        self._client = httpx.AsyncClient(base_url=api_url, headers=headers, timeout=_TIMEOUT_S, verify=verify)

    @classmethod
    def of_settings(cls, patience_s: float = math.inf) -> PrefectRuns:
        """Talk to the server that Prefect's own settings name."""
        # Late: the reaper of the facade does without the settings, and without the memory of what they import.
        from prefect.settings import get_current_settings

        api = get_current_settings().api
        if api.tls_insecure_skip_verify:
            verify: ssl.SSLContext | bool = False
        else:
            verify = ssl.create_default_context(cafile=api.ssl_cert_file) if api.ssl_cert_file else True
        return cls(
            str(api.url),
            auth_string=api.auth_string.get_secret_value() if api.auth_string else None,
            api_key=api.key.get_secret_value() if api.key else None,
            verify=verify,
            patience_s=patience_s,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self, run_id: UUID) -> Run | None:
        """Return the run, None when it is deleted."""
        try:
            return Run.parse((await self._call("GET", f"/flow_runs/{run_id}")).json())
        except NotFound:
            return None

    async def read_many(self, ids: Iterable[UUID]) -> dict[UUID, Run]:
        """Return those of at most 200 runs that exist."""
        body = {"flow_runs": {"id": {"any_": [str(id) for id in ids]}}, "limit": _PAGE}
        page = (await self._call("POST", "/flow_runs/filter", body)).json()
        return {run.id: run for raw in page if (run := Run.parse(raw)) is not None}

    async def read_active(self, work_pool: str) -> list[Run]:
        """Return the runs of a pool that have a worker, or should."""
        found: list[Run] = []
        while True:
            body = {
                "flow_runs": {"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
                "work_pools": {"name": {"any_": [work_pool]}},
                "sort": "ID_DESC",
                "limit": _PAGE,
                "offset": len(found),
            }
            page = (await self._call("POST", "/flow_runs/filter", body)).json()
            found += [run for raw in page if (run := Run.parse(raw)) is not None]
            if len(page) < _PAGE:
                return found

    async def read_due(self, work_pool: str, queues: Collection[str], within_s: float) -> list[dict[str, Any]]:
        """Return the first 200 runs that are due by then, in the order of the queues' priorities and their times."""
        body: dict[str, Any] = {"scheduled_before": (datetime.now(UTC) + timedelta(seconds=within_s)).isoformat()}
        if queues:
            body["work_queue_names"] = sorted(queues)
        try:
            response = await self._call("POST", f"/work_pools/{work_pool}/get_scheduled_flow_runs", body)
        except NotFound:  # a pool that is deleted is made again with the next heartbeat
            return []
        due: list[dict[str, Any]] = response.json()
        return due

    async def take(self, run_id: UUID, message: str) -> Mapping[str, Any] | None:
        """Move a run that is due to Pending; return the state, None when somebody was faster or it is not due.

        `message` has to name the worker: it shows whose Pending it is when the answer gets lost.
        """
        due = datetime.now(UTC) + timedelta(seconds=1)
        body = {
            "flow_runs": {
                "id": {"any_": [str(run_id)]},
                "state": {"type": {"any_": ["SCHEDULED"]}},
                "next_scheduled_start_time": {"before_": due.isoformat()},
            },
            "state": {"type": "PENDING", "name": "Pending", "message": message},
        }
        for result in (await self._call("POST", "/flow_runs/bulk_set_state", body)).json()["results"]:
            if result["status"] == "ACCEPT":
                state: Mapping[str, Any] = result["state"]
                return state
        try:
            raw = (await self._call("GET", f"/flow_runs/{run_id}")).json()
        except NotFound:
            return None
        state = raw.get("state") or {}
        return state if (state.get("type"), state.get("message")) == ("PENDING", message) else None

    async def move(
        self,
        run: Run,
        state: NewState,
        *,
        force: bool = True,
        instead: Callable[[Run], NewState | None] = lambda _: None,
    ) -> NewState | None:
        """Set the next state of a run unless it has left the one in which it was read; return what was set.

        Where another state came in the last moment, `instead` says what follows on that one; None lets it stand.
        """
        types, names = [run.state_type], [run.state_name]
        done = await swap(self._json, run.id, state.dump(), types=types, names=names, force=force)
        if done is None or done.now["type"] != state.type:
            return None
        if done.before["id"] == run.state_id:
            return state
        follows = instead(replace(run, **_state_fields(done.before)))
        if follows is None:
            await put_back(self._json, run.id, done)
            return None
        types = sorted({*FOLLOWERS, str(done.now["type"])})
        return follows if await swap(self._json, run.id, follows.dump(), types=types) is not None else None

    async def confirm_taken(self, run_id: UUID, state_id: str) -> bool:
        """Tell whether the Pending state of a run came after Scheduled; what else it replaced is put back."""
        done = await find_swap(self._json, run_id, state_id)
        if done is None or done.before["type"] == "SCHEDULED":
            return True
        await put_back(self._json, run_id, done)
        return False

    async def label(self, run_id: UUID, labels: Mapping[str, str | int]) -> None:
        """Add labels to a run; one that is deleted is left in peace."""
        try:
            await self._call("PATCH", f"/flow_runs/{run_id}/labels", labels)
        except NotFound:
            return

    async def note_process(self, run_id: UUID, pid: str) -> None:
        """Write down the process of a run; empty for none, so that a cancel of the run takes effect at once."""
        try:
            await self._call("PATCH", f"/flow_runs/{run_id}", {"infrastructure_pid": pid})
        except NotFound:
            return

    async def forget_retry(self, run_id: UUID) -> None:
        """Let workers see a run that was to be retried by a process which is gone."""
        raw = (await self._call("GET", f"/flow_runs/{run_id}")).json()
        policy = {**(raw.get("empirical_policy") or {}), "retry_type": None}
        await self._call("PATCH", f"/flow_runs/{run_id}", {"empirical_policy": policy})

    async def read_beats(self, work_pool: str) -> Beats:
        response = await self._call("POST", f"/work_pools/{work_pool}/workers/filter", {"limit": _PAGE})
        workers = response.json()
        return Beats(
            now=parsedate_to_datetime(response.headers["Date"]),
            last={
                worker["name"]: datetime.fromisoformat(worker["last_heartbeat_time"])
                for worker in workers
                if worker.get("last_heartbeat_time")
            },
            online=frozenset(worker["name"] for worker in workers if worker.get("status") == "ONLINE"),
        )

    async def beat(self, work_pool: str, worker: str, interval_s: int) -> None:
        """Say that a worker is alive, once: a late answer would be worth nothing."""
        body = {"name": worker, "heartbeat_interval_seconds": interval_s}
        response = await self._client.post(f"/work_pools/{work_pool}/workers/heartbeat", json=body, timeout=4.0)
        response.raise_for_status()

    async def _json(self, method: str, path: str, body: object) -> Any:
        return (await self._call(method, path, body)).json()

    async def _call(self, method: str, path: str, body: object = None) -> httpx.Response:
        loop = asyncio.get_running_loop()
        started, pause_s = loop.time(), _PAUSE_S
        while True:
            try:
                response = await self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                problem: Exception | None = error
            else:
                if response.is_success:
                    return response
                if response.status_code == 404:
                    raise NotFound(f"Prefect does not know {path}.")
                if response.status_code < 500 and response.status_code not in (408, 425, 429):
                    raise YardError(f"Prefect answered {response.status_code} to {method} {path}.")
                problem = None
            if loop.time() + pause_s - started > self.patience_s:
                raise Unavailable("The Prefect server does not answer.") from problem
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

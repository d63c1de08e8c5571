"""Set the state of a flow run and learn which state that replaced.

Prefect looks up which runs are in a state in one transaction and sets their next state in another one. What happens in
between is overwritten: a pause by a retry, a retry by a pause. Whoever sets a state therefore looks afterwards at what
it replaced, and puts that back where it was not what it should have been.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

#: Sends a request (method, path, body) to the Prefect server and returns its JSON.
Call = Callable[[str, str, object], Awaitable[Any]]

#: What may have followed by itself on a state that should not have been set.
FOLLOWERS = ("SCHEDULED", "PENDING", "RUNNING")


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Two states of a flow run, one after the other, as Prefect's JSON."""

    before: Mapping[str, Any]
    now: Mapping[str, Any]
    """Not always the one that was asked for: Prefect cancels at once what has no process to stop."""


async def swap(
    call: Call,
    run_id: UUID,
    state: Mapping[str, Any],
    *,
    types: Sequence[str] = (),
    names: Sequence[str] = (),
    force: bool = True,
) -> Swap | None:
    """Set the state of a run that is in one of these, by type or by name; None if it is not, or Prefect refused."""
    guard: dict[str, Any] = {"type": {"any_": list(types)}} if types else {}
    guard |= {"name": {"any_": list(names)}} if names else {}
    body = {"flow_runs": {"id": {"any_": [str(run_id)]}, "state": guard}, "state": dict(state), "force": force}
    for result in (await call("POST", "/flow_runs/bulk_set_state", body))["results"]:
        if result["status"] in ("ACCEPT", "REJECT") and result["state"] is not None:
            return await find_swap(call, run_id, result["state"]["id"])
    return None


async def find_swap(call: Call, run_id: UUID, state_id: str) -> Swap | None:
    """Return a state of a run with the one before it; None if there is no such state or none before it."""
    history = await call("GET", f"/flow_run_states/?flow_run_id={run_id}", None)
    history.sort(key=lambda state: datetime.fromisoformat(state["timestamp"]))
    for before, now in pairwise(history):
        if now["id"] == state_id:
            return Swap(before=before, now=now)
    return None


async def put_back(call: Call, run_id: UUID, wrong: Swap) -> None:
    """Set the state again that should not have been replaced."""
    state = {name: wrong.before.get(name) for name in ("type", "name", "message", "state_details", "data")}
    types = {*FOLLOWERS, str(wrong.now["type"])}
    if state["type"] == "CANCELLING" and wrong.now["type"] in ("SCHEDULED", "PAUSED"):
        # Prefect would cancel at once what is queued or suspended, whatever the stop is for.
        await swap(call, run_id, {"type": "PENDING", "name": "Pending"}, types=sorted(types))
        types = {"PENDING", "RUNNING"}
    done = await swap(call, run_id, state, types=sorted(types))
    if done is not None and done.now["type"] != state["type"]:
        # It was queued or suspended all the same, in the moment between.
        await put_back(call, run_id, done)

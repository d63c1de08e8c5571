"""What becomes of a flow run whose process or worker is gone: no run stays Running without a process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import AwaitingRetry, Cancelled, Crashed, Scheduled

logger = get_logger("trainyard.handover")

#: Label of a flow run: which process on which machine has taken it.
OWNER_LABEL = "trainyard.worker.process"

#: A run that has lost this many workers is what kills them.
ATTEMPTS_MAX = 3

_PAGE = 200


def this_process() -> str:
    """Return a name for this process that no other one ever has on this machine."""
    return f"{_machine()} {_process(os.getpid())}"


def is_gone(owner: str) -> bool:
    """Tell whether the process of that name has ended; False for processes of other machines."""
    machine, _, process = owner.rpartition(" ")
    if machine != _machine():
        return False
    pid = int(process.partition(":")[0])
    try:
        return process != _process(pid)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _machine() -> str:
    # Containers share the boot id of their host but not its process ids.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _process(pid: int) -> str:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{pid}:{fields[19]}"


async def give_back(client: PrefectClient, flow_run: FlowRun, reason: str) -> None:
    """Set the next state of a run that has no process any more, by the state it is in."""
    state = flow_run.state
    if state is None or state.is_final() or state.is_scheduled() or state.is_paused():
        return
    # The old time keeps the order of the queue.
    at = flow_run.expected_start_time
    if state.is_cancelling():
        await client.set_flow_run_state(flow_run.id, Cancelled(message=reason), force=True)
    elif state.is_pending():
        await client.set_flow_run_state(flow_run.id, Scheduled(message=reason, scheduled_time=at), force=True)
    elif flow_run.run_count >= ATTEMPTS_MAX:
        message = f"{reason} It was attempt {flow_run.run_count} of {ATTEMPTS_MAX}, so the run is given up."
        await client.set_flow_run_state(flow_run.id, Crashed(message=message), force=True)
    else:
        message = f"{reason} The run starts again, from its last checkpoint where it has one."
        await client.set_flow_run_state(flow_run.id, AwaitingRetry(message=message, scheduled_time=at), force=True)


async def give_back_by_id(flow_run_ids: Iterable[UUID], reason: str) -> None:
    async with get_client() as client:
        for flow_run_id in flow_run_ids:
            try:
                await give_back(client, await client.read_flow_run(flow_run_id), reason)
            except ObjectNotFound:
                continue
            except httpx.HTTPError as error:
                # The next worker on this machine finds the run by its label.
                logger.warning("Flow run '%s' could not be given back: %s", flow_run_id, error)


async def give_back_lost(client: PrefectClient, work_pool: str) -> None:
    """Give back what dead workers on this machine have left behind in the pool."""
    states = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    offset = 0
    while True:
        page = await client.read_flow_runs(
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[work_pool])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=states))),
            sort=FlowRunSort.ID_DESC,
            limit=_PAGE,
            offset=offset,
        )
        for flow_run in page:
            owner = flow_run.labels.get(OWNER_LABEL)
            if isinstance(owner, str) and is_gone(owner):
                logger.warning("Flow run '%s' lost its worker and is given back.", flow_run.name)
                await give_back(client, flow_run, "The worker of this run died.")
        if len(page) < _PAGE:
            return
        offset += _PAGE

"""One flow run on a worker: its place in the queue, its process, its end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import anyio
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_logger

from ..flows.joblog import ATTEMPT_VARIABLE, SPOOL_VARIABLE
from ..schemas.attempts import ATTEMPT_LABEL, LIMIT_LABEL, OWNER_LABEL, WORKER_LABEL, Attempt, read_attempts
from ..schemas.errors import Unavailable, YardError
from ..tasks.stopping import GRACE_VARIABLE
from .child import SERVER_AWAY
from .ends import Loss, settle, why_it_ended
from .forks import Fork, ForkServerClient
from .prefect_internals import Control
from .prefect_runs import NewState, PrefectRuns, Run
from .processes import oom_kills
from .running import RunningProcess
from .scratch import Scratch, finish_log
from .slots import Slots, Ticket

logger = get_logger("trainyard.worker.run")

#: What was read so recently is taken for true.
_FRESH_S = 2.0
#: A process is started only so soon after its run was taken, else the run is read again first: after 30 s it may
#: have been given to somebody else.
_START_S = 15.0
#: Seconds between two looks whether the last process of a run is gone.
_OWNER_LOOK_S = 0.3
#: Seconds between two looks whether a run has reported its last state.
_CONCLUDED_LOOK_S = 0.05
#: A stop that Prefect's own part of a run does not ask for itself.
_STOPS = frozenset({"CANCELLING", "CANCELLED"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What all runs of a worker share."""

    worker: str
    owner: str
    runs: PrefectRuns
    slots: Slots
    forks: ForkServerClient
    control: Control
    scratch: Scratch
    grace_s: float
    gpu_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a run is to be started with."""

    environment: Mapping[str, str]
    cpus: int
    max_attempts: int
    labels: Mapping[str, str]


class LocalRun:
    """From the moment that a worker has heard of a run until it has nothing to do with it any more."""

    def __init__(self, place: Workplace, flow_run: FlowRun) -> None:
        self.flow_run = flow_run
        self.ticket: Ticket = place.slots.take_ticket()
        self.process: RunningProcess | None = None
        self._place = place
        self._read_at = time.monotonic()
        self._taken_at: float | None = None
        self._announced_at: float | None = None
        self._attempt = 0
        #: The run is not to be started: it was stopped, or others have it.
        self._dropped = asyncio.Event()
        #: Why the worker itself lets go of it.
        self._loss: Loss | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it only stands in the queue."""
        return self._taken_at is None and not self._dropped.is_set()

    # --- the queue

    def drop(self) -> None:
        """Leave the queue, or do not start."""
        self._dropped.set()

    async def wait_for_slots(self) -> bool:
        """Wait for the slots; False when it was dropped before."""
        if not self.ticket.granted.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (self.ticket.granted, self._dropped)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return not self._dropped.is_set()

    # --- from the queue to the end

    async def see_through(self, assignment: Assignment, *, is_taken: bool = False) -> int | None:
        """Take the run, start it and see to its end; return the exit status, None if nothing was started."""
        # A task of its own: what stops the worker must not tear this down in the middle.
        life = asyncio.create_task(self._live(assignment, is_taken))
        try:
            return await asyncio.shield(life)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                self._let_go()
                await asyncio.wait([life])
            raise

    def _let_go(self) -> None:
        """Give the run back to the queue: the worker is to end."""
        self._loss = Loss(cause=f"The worker '{self._place.worker}' was stopped.", counts=False)
        self.drop()
        if self.process is not None:
            self.process.stop()

    async def _live(self, assignment: Assignment, is_taken: bool) -> int | None:
        status = None
        loss = Loss(cause="It was not started.", counts=False)
        oom_before = oom_kills()
        try:
            if is_taken:
                self._taken_at = time.monotonic()
            elif not await self._take():
                return None
            if await self._wait_for_owner() and await self._announce(assignment):
                status = await self._run_process(assignment)
                loss = Loss(cause=why_it_ended(status, oom_kills() > oom_before))
                if status == SERVER_AWAY:
                    loss = Loss(cause="The Prefect server was away.", counts=False)
        except Exception as error:  # whatever it is, the run must not stay Pending
            logger.exception("Flow run '%s' could not be started.", self.flow_run.name)
            loss = Loss(cause=f"The run could not be started: {type(error).__name__}: {error}")
        try:
            await self._settle(loss)
        except YardError as error:
            # A reaper finds the run by its label.
            logger.warning("The end of flow run '%s' could not be told: %s", self.flow_run.name, error)
        return status

    async def _take(self) -> bool:
        """Make the run ours by the Pending state; False when somebody else was faster."""
        began = time.monotonic()
        state = await self._place.runs.take(self.flow_run.id, f"Worker '{self._place.worker}' starts it.")
        if state is None:
            return False
        self._taken_at = began
        self.flow_run.state = State.model_validate(state)
        if time.monotonic() - self._read_at > _FRESH_S and (now := await self._place.runs.read(self.flow_run.id)):
            self.flow_run.labels = dict(now.labels)
        return True

    async def _wait_for_owner(self) -> bool:
        """Wait until the last process of the run is gone; False if the run is not to be started any more."""
        told = False
        while (owner := self.flow_run.labels.get(OWNER_LABEL)) and owner != self._place.owner:
            now = await self._place.runs.read(self.flow_run.id)
            if now is None or now.state_type not in ("PENDING", "CANCELLING"):
                # A reaper has found the owner dead and has given the run back.
                self.drop()
                break
            self.flow_run.labels = dict(now.labels)
            if now.owner and now.state_type == "PENDING" and not told:
                message = f"Waits until worker '{now.labels.get(WORKER_LABEL)}' has ended the last process of this run."
                waits = NewState(type="PENDING", name="AwaitingProcess", message=message)
                told = await self._place.runs.move(now, waits) is not None
            if now.state_type != "PENDING":
                # To be ended, but not before its last process is gone.
                self.drop()
            if now.owner:
                await asyncio.sleep(_OWNER_LOOK_S)
        return not self._dropped.is_set()

    async def _announce(self, assignment: Assignment) -> bool:
        """Write down whose the run is and the attempt; False if it is not to be started any more."""
        place = self._place
        attempts = read_attempts(self.flow_run.labels)
        self._attempt = attempts[-1].number + 1 if attempts else 1
        demand = self.ticket.demand
        assert demand is not None
        attempt = Attempt(
            number=self._attempt,
            at=datetime.now(UTC),
            worker=place.worker,
            host=socket.gethostname(),
            cpus=demand.cpus,
            gpus=demand.gpus,
            gpu_type=place.gpu_type if demand.gpus else None,
        )
        labels: dict[str, str | int] = {
            **assignment.labels,
            OWNER_LABEL: place.owner,
            WORKER_LABEL: place.worker,
            LIMIT_LABEL: assignment.max_attempts,
            f"{ATTEMPT_LABEL}{self._attempt}": attempt.model_dump_json(),
        }
        _, is_taken = await asyncio.gather(place.runs.label(self.flow_run.id, labels), self._confirm_taken())
        if not is_taken:
            self.drop()
        self._announced_at = time.monotonic()
        assert self._taken_at is not None
        if self._announced_at - self._taken_at > _START_S:
            now = await place.runs.read(self.flow_run.id)
            if now is None or now.state_type != "PENDING" or now.owner != place.owner:
                self.drop()
        return not self._dropped.is_set()

    async def _confirm_taken(self) -> bool:
        """Look whether the run was stopped in the moment in which we took it."""
        state = self.flow_run.state
        if state is None or state.name != "Pending":  # taken by Prefect itself, for a run without a deployment
            return True
        return await self._place.runs.confirm_taken(self.flow_run.id, str(state.id))

    async def _run_process(self, assignment: Assignment) -> int:
        place, run_id = self._place, self.flow_run.id
        noting: asyncio.Task[None] | None = None
        try:
            fork = await self._fork(assignment)
            self.process = RunningProcess(fork, lambda: place.control.is_concluded(run_id), place.grace_s)
            noting = asyncio.create_task(place.runs.note_process(run_id, str(fork.pid)))
            if self._dropped.is_set():
                self.process.stop()
            freeing = asyncio.create_task(self._free_slots_early())
            status = await self.process.wait()
            freeing.cancel()
            return status
        finally:
            place.control.unregister(run_id)
            if noting is not None:
                await noting

    async def _fork(self, assignment: Assignment) -> Fork:
        place, run_id = self._place, self.flow_run.id
        folder, spool = place.scratch.working_folder(run_id), place.scratch.spool(run_id)
        temporary = place.scratch.temporary_folder(run_id)
        for path in (folder, spool, temporary):
            await asyncio.to_thread(path.mkdir, mode=0o700, exist_ok=True)
        environment = {
            **assignment.environment,
            **place.control.register(run_id),
            ATTEMPT_VARIABLE: str(self._attempt),
            GRACE_VARIABLE: str(place.grace_s),
            SPOOL_VARIABLE: str(spool),
            # What a killed process leaves there goes with the run.
            "TMPDIR": str(temporary),
        }
        return await place.forks.start(
            str(run_id),
            {
                "role": "run",
                "environment": environment,
                "cwd": str(folder),
                "cpus": assignment.cpus,
                "flow_run": self.flow_run.model_dump(mode="json"),
            },
        )

    async def _free_slots_early(self) -> None:
        """Free the slots with the last state of the run: its process idles for a second before it ends."""
        while not self._place.control.is_concluded(self.flow_run.id):  # noqa: ASYNC110
            await asyncio.sleep(_CONCLUDED_LOOK_S)
        self._place.slots.give_back(self.ticket)

    # --- the end

    async def _settle(self, loss: Loss) -> None:
        """Bring the log home, then set the state that follows, then let others have the run."""
        place, run_id = self._place, self.flow_run.id
        for folder in (place.scratch.working_folder(run_id), place.scratch.temporary_folder(run_id)):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        await finish_log(place.scratch.spool(run_id))
        if self.process is not None and self.process.is_disowned:
            return
        now = await place.runs.read(run_id)
        if now is None or not self._is_ours(now):
            return
        if self._loss is None and self.process is not None and self.process.is_stopped:
            # Asked to stop by a state that somebody has changed since.
            loss = Loss(cause="The run was stopped.", counts=False)
        ended = await settle(place.runs, now, self._loss or loss)
        if ended is not None and ended.type in ("CANCELLED", "CRASHED"):
            await self._run_hooks(ended)

    def _is_ours(self, now: Run) -> bool:
        return not now.owner or now.owner == self._place.owner

    async def _run_hooks(self, ended: NewState) -> None:
        """Run `on_cancellation` or `on_crashed` hooks in a fork: the worker itself imports no flow."""
        state = {"type": "CANCELLING", "name": "Cancelling"} if ended.type == "CANCELLED" else ended.dump()
        try:
            fork = await self._place.forks.start(
                f"hooks {self.flow_run.id}",
                {
                    "role": "hooks",
                    "environment": dict(os.environ),
                    "cwd": "/",
                    "flow_run": self.flow_run.model_dump(mode="json"),
                    "state": State.model_validate(state).model_dump(mode="json", exclude={"data"}),
                },
            )
            await fork.wait()
        except Unavailable as error:
            logger.warning("Hooks of flow run '%s' did not run: %s", self.flow_run.name, error)

    # --- hearing of it

    def heed(self, now: Run | None, read_at: float) -> None:
        """Act on what the server says of the run; `read_at` is when it was asked."""
        if self.is_waiting:
            if now is None or now.state_type != "SCHEDULED":
                self.drop()
            return
        if self.process is None:
            if now is None or now.state_type not in ("SCHEDULED", "PENDING"):
                self.drop()
            return
        if now is None or now.state_type in _STOPS or now.suspended:
            self.process.thaw()
            self.process.stop()
        elif self._announced_at is not None and self._announced_at < read_at and not self._is_ours(now):
            self.process.disown()

"""The warm worker: a Prefect worker whose flow runs are forked from a process that has imported everything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import anyio.abc
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Failed, Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult
from pydantic import Field

from ..schemas.errors import JobFailed
from .child import ChildJob
from .forks import Fork, ForkServerClient
from .gpus import gpu_ids
from .handover import OWNER_LABEL, give_back, give_back_lost, this_process
from .prefect_internals import RunSupervisor
from .slots import Demand, Slots, Ticket
from .wakeup import Wakeup
from .worker_settings import WorkerSettings

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse, WorkerFlowRunResponse

logger = get_logger("trainyard.worker")

#: Seconds that a starting worker waits for the event stream before it goes on without.
_STREAM_S = 5.0

#: Seconds between two looks for runs that dead workers of this machine left behind.
_LOST_RUNS_S = 30.0

#: Seconds between two looks whether the Prefect server is there.
_SERVER_LOOK_S = 0.2

#: Seconds between two looks whether a run has reported its last state.
_CONCLUDED_LOOK_S = 0.05

_CPUS = Field(default=1, ge=1, description="CPU slots of the run, and the number of threads that torch gets.")
_GPUS = Field(
    default=None, ge=0, description="GPUs of the run; it sees these and no others. A worker without them fails the run."
)
_GPUS_UP_TO = Field(
    default=1, ge=0, description="Without `gpus`: the run gets so many GPUs, or all of a worker that has fewer."
)


async def wait_for_prefect() -> None:
    """Return when the Prefect server answers; it may still be starting."""
    async with get_client() as client:
        while (problem := await client.api_healthcheck()) is not None:
            logger.debug("Waiting for the Prefect server: %s", problem)
            await asyncio.sleep(_SERVER_LOOK_S)


class TrainyardJobConfiguration(BaseJobConfiguration):
    """What the job variables of a run come down to."""

    cpus: int = _CPUS
    gpus: int | None = _GPUS
    gpus_up_to: int = _GPUS_UP_TO

    @classmethod
    @cache
    def _base_environment(cls) -> dict[str, str]:
        # Settings do not change while a worker lives, and Prefect takes 26 ms to write them down.
        return super()._base_environment()


class TrainyardVariables(BaseVariables):
    """Job variables of the work pool."""

    cpus: int = _CPUS
    gpus: int | None = _GPUS
    gpus_up_to: int = _GPUS_UP_TO


class TrainyardWorkerResult(BaseWorkerResult):
    """How the process of a run ended."""


class TrainyardWorker(BaseWorker[TrainyardJobConfiguration, TrainyardVariables, TrainyardWorkerResult]):
    """Runs flow runs in children of a warm process, within the CPUs and GPUs of this machine."""

    type = "trainyard"
    job_configuration = TrainyardJobConfiguration
    job_configuration_variables = TrainyardVariables
    _display_name = "Trainyard"
    _description = (
        "Runs training jobs in processes forked from one that has already imported torch, Prefect and MLflow, "
        "within CPU slots and GPUs."
    )
    _documentation_url = "https://docs.prefect.io/v3/concepts/workers"
    _logo_url = "https://raw.githubusercontent.com/PrefectHQ/prefect/main/assets/block-logos/process.png"

    def __init__(self, *args: Any, settings: WorkerSettings | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.yard_settings = settings or WorkerSettings()
        self._slots = Slots(cpus=self.yard_settings.cpus, gpu_ids=gpu_ids(self.yard_settings.gpus))
        self._forks = ForkServerClient(
            self.yard_settings.preload, os.environ | TrainyardJobConfiguration._base_environment()
        )
        self._wakeup = Wakeup(self._note_due, self._note_cancelling, self._note_gap)
        self._kick = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Waiting or starting runs of ours, each with what cancels it.
        self._waiting: dict[UUID, asyncio.Event] = {}
        self._again: set[UUID] = set()

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        template = super().get_default_base_job_template()
        # There is no command: a run is a function call in a fork.
        del template["job_configuration"]["command"]
        del template["variables"]["properties"]["command"]
        return template

    # --- life of the worker

    async def setup(self) -> None:
        self._prepare_scratch()
        if (ready_file := self.yard_settings.ready_file) is not None:
            ready_file.unlink(missing_ok=True)
        await self._forks.start_server()
        # The forkserver imports for seconds anyway, and without the server nothing below would last.
        await wait_for_prefect()
        await super().setup()
        self._supervisor = RunSupervisor(self.client, _ForkedHooks(self._start_child), self.yard_settings.grace_s)
        await self._supervisor.__aenter__()
        await self._give_back_lost()
        self._in_background(self._watch_pool())
        await self._forks.wait_until_warm()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wakeup.connected.wait(), _STREAM_S)
        if ready_file is not None:
            ready_file.write_text(f"{os.getpid()} {self.name}\n")
        print("ready", flush=True)

    async def teardown(self, *exc_info: Any) -> None:
        for task in self._tasks:
            task.cancel()
        try:
            await super().teardown(*exc_info)
        finally:
            await self._supervisor.__aexit__(*exc_info)
            await self._forks.close()

    def _prepare_scratch(self) -> None:
        """Make the folder for working folders, and be sure that nobody else can write to it."""
        scratch = self.yard_settings.scratch
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = scratch.stat()
        if status.st_uid != os.getuid() or status.st_mode & stat.S_IWOTH:
            raise JobFailed(
                f"The scratch folder {scratch} belongs to somebody else or everybody may write to it.",
                hint="Set TRAINYARD_WORKER_SCRATCH to a folder of your own.",
            )

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- hearing of runs

    async def _watch_pool(self) -> None:
        """Serve wake-ups until the worker stops."""
        self._in_background(self._wakeup.listen(self.work_pool.id))
        self._in_background(self._give_back_lost_for_ever())
        while True:
            await self._kick.wait()
            self._kick.clear()
            try:
                await self.get_and_submit_flow_runs()
            except Exception:  # the poll loop of Prefect reports what lasts
                self._logger.debug("Could not look for runs", exc_info=True)

    async def _give_back_lost_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_LOST_RUNS_S)
            await self._give_back_lost()

    async def _give_back_lost(self) -> None:
        try:
            await give_back_lost(self.client, self._work_pool_name)
        except Exception:  # whatever it is, this worker still has runs of its own; the next look tries again
            self._logger.warning("Could not give back the runs of workers that are gone.", exc_info=True)

    def _note_due(self, flow_run_id: UUID) -> None:
        if flow_run_id in self._submitting_flow_run_ids:
            # Resumed or retried before its last process has ended.
            self._again.add(flow_run_id)
        else:
            self._kick.set()

    def _note_gap(self) -> None:
        self._kick.set()
        for flow_run_id in list(self._submitting_flow_run_ids):
            self._in_background(self._cancel_if_asked(flow_run_id))

    def _note_cancelling(self, flow_run_id: UUID) -> None:
        if flow_run_id in self._submitting_flow_run_ids:
            self._in_background(self._cancel_if_asked(flow_run_id))

    def _demand(self, configuration: TrainyardJobConfiguration) -> Demand:
        gpus = configuration.gpus
        if gpus is None:
            gpus = min(configuration.gpus_up_to, self._slots.total.gpus)
        return Demand(cpus=configuration.cpus, gpus=gpus)

    async def _cancel_if_asked(self, flow_run_id: UUID) -> None:
        # Read again: after a reconnect the stream repeats events of up to 15 minutes ago.
        try:
            flow_run = await self.client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            return
        if flow_run.state is None or not flow_run.state.is_cancelling():
            return
        if self._supervisor.is_running(flow_run_id):
            self._supervisor.cancel(flow_run)
        elif (asked := self._waiting.get(flow_run_id)) is not None:
            asked.set()

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Return runs that are due; a run that is due soon wakes the worker then."""
        responses = await super()._get_scheduled_flow_runs()
        due = []
        for response in responses:
            at = response.flow_run.next_scheduled_start_time or response.flow_run.expected_start_time
            wait_s = 0.0 if at is None else at.timestamp() - time.time()
            if wait_s <= 0:
                due.append(response)
            else:
                asyncio.get_running_loop().call_later(wait_s, self._kick.set)
        return due

    # --- one run

    async def _submit_run(self, flow_run: FlowRun) -> None:
        """See one run through: queue, process, end. Replaces the stock method, which makes three more requests."""
        ticket = self._slots.take_ticket()
        self._waiting[flow_run.id] = asyncio.Event()
        taken = False
        try:
            deployment = None
            if flow_run.deployment_id is not None:
                try:
                    deployment = await self.client.read_deployment(flow_run.deployment_id)
                except ObjectNotFound:
                    await self._mark_flow_run_as_cancelled(flow_run, {"message": "Its deployment is gone."})
                    return
            configuration = await self.job_configuration.resolve_for_flow_run(
                flow_run,
                client=self.client,
                work_pool=self.work_pool,
                worker_name=self.name,
                worker_id=self.backend_id,
                deployment=deployment,
            )
            self._slots.ask(ticket, self._demand(configuration))
            taken = await self._take(flow_run, ticket)
            if not taken or not await self._wait_for_slots(flow_run, ticket):
                return
            await self._run_process(flow_run, configuration, ticket, deployment)
            await self._finish_cancel(flow_run)
        except asyncio.CancelledError:
            if taken:
                with anyio.CancelScope(shield=True):
                    await self._give_back(flow_run)
            raise
        except JobFailed as error:
            await self._propose(flow_run, Failed(message=str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the run must not stay Pending
            self.get_flow_run_logger(flow_run).exception("Could not start flow run '%s'.", flow_run.name)
            await self._propose_crashed_state(
                flow_run, f"The run could not be started: {type(error).__name__}: {error}"
            )
        finally:
            self._slots.give_back(ticket)
            self._waiting.pop(flow_run.id, None)
            self._release_limit_slot(flow_run.id)
            self._submitting_flow_run_ids.discard(flow_run.id)
            if flow_run.id in self._again:
                self._again.discard(flow_run.id)
                self._kick.set()

    async def _take(self, flow_run: FlowRun, ticket: Ticket) -> bool:
        """Make the run ours by the Pending state; False when somebody else was first."""
        message = None if ticket.granted.is_set() else self._slots.why_waiting(ticket)
        state = await self._propose(flow_run, Pending(message=message))
        if state is None or not state.is_pending():
            return False
        flow_run.state = state
        self._in_background(self._give_worker_labels_to_flow_run(flow_run.id))
        return True

    async def _propose(self, flow_run: FlowRun, state: State[Any]) -> State[Any] | None:
        try:
            return await propose_state(self.client, state, flow_run_id=flow_run.id)
        except (Abort, ObjectNotFound) as refused:
            self.get_flow_run_logger(flow_run).info("The server refused state %s: %s", state.name, refused)
            return None

    async def _wait_for_slots(self, flow_run: FlowRun, ticket: Ticket) -> bool:
        """Wait for the slots; False when the run was cancelled meanwhile."""
        cancelled = self._waiting[flow_run.id]
        if not ticket.granted.is_set():
            waits = [asyncio.create_task(event.wait()) for event in (ticket.granted, cancelled)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if cancelled.is_set():
            await self._mark_flow_run_as_cancelled(flow_run, {"message": "Cancelled before it started."})
            return False
        return True

    async def _run_process(
        self,
        flow_run: FlowRun,
        configuration: TrainyardJobConfiguration,
        ticket: Ticket,
        deployment: DeploymentResponse | None,
        task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> int | None:
        """Run the flow run in a fork to its end; return the exit status."""
        scratch = self.yard_settings.scratch / str(flow_run.id)
        environment = self._environment(flow_run, configuration, ticket, deployment)

        async def start(control: dict[str, str]) -> Fork:
            await asyncio.to_thread(scratch.mkdir, mode=0o700, exist_ok=True)
            fork = await self._start_child(
                str(flow_run.id),
                {
                    "role": "run",
                    "environment": environment | control,
                    "cwd": str(scratch),
                    "cpus": configuration.cpus,
                    "flow_run": flow_run.model_dump(mode="json"),
                },
            )
            task_status.started(fork.pid)
            self._in_background(self._report_start(flow_run, fork))
            return fork

        submitted = self._emit_flow_run_submitted_event(configuration)
        # A task of its own: what stops the worker must not tear the run's control channel down with it.
        execution = asyncio.create_task(self._supervisor.execute(flow_run, start))
        free_early = asyncio.create_task(self._free_slots_when_concluded(flow_run.id, ticket, execution))
        try:
            status = await asyncio.shield(execution)
        except asyncio.CancelledError:
            with anyio.CancelScope(shield=True):
                await self._supervisor.stop_for_later(flow_run.id)
                await asyncio.wait([execution])
            raise
        finally:
            free_early.cancel()
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        if status is not None and submitted is not None:
            result = TrainyardWorkerResult(identifier=str(flow_run.id), status_code=status)
            self._emit_flow_run_executed_event(result, configuration, submitted)
        return status

    async def _report_start(self, flow_run: FlowRun, fork: Fork) -> None:
        with contextlib.suppress(ObjectNotFound):
            await self.client.update_flow_run(flow_run.id, infrastructure_pid=str(fork.pid))
        # A cancel that came while the process was being started found nothing to stop.
        if (asked := self._waiting.pop(flow_run.id, None)) is not None and asked.is_set():
            await self._cancel_if_asked(flow_run.id)

    async def _free_slots_when_concluded(
        self, flow_run_id: UUID, ticket: Ticket, execution: asyncio.Task[int | None]
    ) -> None:
        """Free the slots with the last state of the run: its process idles for a second before it ends."""
        while not execution.done() and not self._supervisor.is_concluded(flow_run_id):  # noqa: ASYNC110
            await asyncio.sleep(_CONCLUDED_LOOK_S)
        self._slots.give_back(ticket)

    async def _finish_cancel(self, flow_run: FlowRun) -> None:
        """Set Cancelled where a cancel came too late for Prefect's own part and too early for the flow."""
        with contextlib.suppress(ObjectNotFound):
            now = await self.client.read_flow_run(flow_run.id)
            if now.state is not None and now.state.is_cancelling():
                await self._mark_flow_run_as_cancelled(now, {"message": "Cancelled while it started."})

    async def _give_back(self, flow_run: FlowRun) -> None:
        with contextlib.suppress(ObjectNotFound):
            now = await self.client.read_flow_run(flow_run.id)
            await give_back(self.client, now, f"The worker '{self.name}' was stopped.")

    async def _give_worker_labels_to_flow_run(self, flow_run_id: UUID) -> None:
        await self.client.update_flow_run_labels(flow_run_id, {OWNER_LABEL: this_process()})
        await super()._give_worker_labels_to_flow_run(flow_run_id)

    def _environment(
        self,
        flow_run: FlowRun,
        configuration: TrainyardJobConfiguration,
        ticket: Ticket,
        deployment: DeploymentResponse | None,
    ) -> dict[str, str]:
        environment: dict[str, str] = {
            **os.environ,
            # For what a run starts itself; torch has read these long ago.
            "OMP_NUM_THREADS": str(configuration.cpus),
            "MKL_NUM_THREADS": str(configuration.cpus),
            "OPENBLAS_NUM_THREADS": str(configuration.cpus),
            **_without_none(configuration.env),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(ticket.gpu_ids),
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            # Hooks for these two are ours to run, once the process is gone.
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        environment.pop("PREFECT__FLOW_ENTRYPOINT", None)
        if (entrypoint := _direct_entrypoint(deployment)) is not None:
            environment["PREFECT__FLOW_ENTRYPOINT"] = entrypoint
        return environment

    async def _start_child(self, key: str, job: ChildJob) -> Fork:
        return await self._forks.start(key, job)

    # --- the interface of Prefect's ad-hoc submission

    async def run(
        self,
        flow_run: FlowRun,
        configuration: TrainyardJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> TrainyardWorkerResult:
        ticket = self._slots.take_ticket()
        try:
            self._slots.ask(ticket, self._demand(configuration))
            await ticket.granted.wait()
            started = task_status or anyio.TASK_STATUS_IGNORED
            status = await self._run_process(flow_run, configuration, ticket, None, started)
        finally:
            self._slots.give_back(ticket)
        return TrainyardWorkerResult(identifier=str(flow_run.id), status_code=1 if status is None else status)


class _ForkedHooks:
    """Runs `on_cancellation` and `on_crashed` hooks in a fork: the worker itself imports no flow."""

    def __init__(self, start: Any) -> None:
        self._start = start

    async def run_cancellation_hooks(self, flow_run: FlowRun, state: State[Any]) -> None:
        await self._run(flow_run, state)

    async def run_crashed_hooks(self, flow_run: FlowRun, state: State[Any]) -> None:
        await self._run(flow_run, state)

    async def _run(self, flow_run: FlowRun, state: State[Any]) -> None:
        fork: Fork = await self._start(
            f"hooks {flow_run.id}",
            {
                "role": "hooks",
                "environment": dict(os.environ),
                "cwd": "/",
                "flow_run": flow_run.model_dump(mode="json"),
                "state": state.model_dump(mode="json", exclude={"data"}),
            },
        )
        await fork.wait()


def _direct_entrypoint(deployment: DeploymentResponse | None) -> str | None:
    """Return the entrypoint where no code has to be fetched for it, which spares the child a request."""
    if deployment is None or deployment.pull_steps or deployment.storage_document_id or not deployment.entrypoint:
        return None
    file, colon, _ = deployment.entrypoint.rpartition(":")
    return deployment.entrypoint if not colon or (Path(file).is_absolute() and not deployment.path) else None


def _without_none(environment: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value is not None}

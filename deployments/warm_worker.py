"""The warm worker: a Prefect worker whose flow runs are forked from a process that has imported everything."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio.abc
import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import WorkerFlowRunResponse
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.workers.base import BaseJobConfiguration, BaseVariables, BaseWorker, BaseWorkerResult
from pydantic import Field

from ..schemas.attempts import MAX_ATTEMPTS
from .capacity import announce, measure
from .fencing import Fence, is_far
from .forks import ForkServerClient
from .gpus import gpu_ids, gpu_type
from .handover import LOOK_S, Reaper
from .local_run import Assignment, LocalRun, Workplace
from .prefect_internals import Control
from .prefect_runs import NewState, PrefectRuns, Run
from .processes import OWNER_VARIABLE, this_machine, this_process
from .scratch import Scratch, sweep
from .slots import Demand, Slots
from .wakeup import Wakeup
from .worker_settings import WorkerSettings

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

logger = get_logger("trainyard.worker")

#: Seconds that a starting worker waits for the event stream before it goes on without.
_STREAM_S = 5.0

#: Seconds between two looks whether the Prefect server is there.
_SERVER_LOOK_S = 0.2

#: Seconds between two heartbeats, at most. Other machines take a silent worker for lost after 20 s.
_BEAT_S = 5

#: Seconds between two looks at the runs that have a process here: events get lost.
_RUNS_LOOK_S = 2.0

#: Seconds between two looks at a run that is too large for this worker.
_TOO_LARGE_LOOK_S = 10.0

#: Seconds that a worker which is to end waits for a server that is away.
_LAST_PATIENCE_S = 5.0

#: Label of a run, with the name of the worker at its end: what that worker has, which is too little.
_TOO_SMALL_LABEL = "trainyard.too_small."

#: Environment variables with the number of threads of numerical libraries.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_NO_DEPLOYMENT = "Its deployment is gone."

#: States that concern a run which has been taken but not started, and one that has a process. The engine of a run sets
#: its own end, and then needs no stop.
_STOPS_OF_TAKEN = frozenset({"CANCELLING", "CANCELLED", "PAUSED", "FAILED", "CRASHED", "COMPLETED"})
_STOPS_OF_RUNNING = frozenset({"CANCELLING", "CANCELLED", "PAUSED"})

_CPUS = Field(
    default=1,
    ge=0,
    description="CPU slots of the run, and the number of threads that torch gets. 0: it only waits for others.",
)
_GPUS = Field(
    default=None, ge=0, description="GPUs of the run; it sees these and no others. A worker without them fails the run."
)
_GPUS_UP_TO = Field(
    default=1, ge=0, description="Without `gpus`: the run gets so many GPUs, or all of a worker that has fewer."
)
_GPU_TYPE = Field(default=None, description="GPU that the run needs, as its driver calls it; any, when left out.")
_MEMORY_MB = Field(default=None, ge=1, description="MiB of memory that the machine of the run must have.")
_DISK_MB = Field(default=None, ge=1, description="MiB of room that the machine of the run must have had at its start.")
_MAX_ATTEMPTS = Field(
    default=MAX_ATTEMPTS, ge=1, description="The run has failed when it has lost so many processes or workers."
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
    gpu_type: str | None = _GPU_TYPE
    memory_mb: int | None = _MEMORY_MB
    disk_mb: int | None = _DISK_MB
    max_attempts: int = _MAX_ATTEMPTS

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
    gpu_type: str | None = _GPU_TYPE
    memory_mb: int | None = _MEMORY_MB
    disk_mb: int | None = _DISK_MB
    max_attempts: int = _MAX_ATTEMPTS


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
        kwargs["heartbeat_interval_seconds"] = min(kwargs.get("heartbeat_interval_seconds") or _BEAT_S, _BEAT_S)
        super().__init__(*args, **kwargs)
        self.yard_settings = settings or WorkerSettings()
        self._machine = self.yard_settings.machine or this_machine()
        self._owner = this_process(self._machine)
        gpus = gpu_ids(self.yard_settings.gpus)
        self._slots = Slots(cpus=self.yard_settings.cpus, gpu_ids=gpus, runs=self._limit)
        self._scratch = Scratch(self.yard_settings.scratch, self._owner)
        self._forks = ForkServerClient(
            self.yard_settings.preload,
            os.environ | TrainyardJobConfiguration._base_environment() | {OWNER_VARIABLE: self._owner},
        )
        self._control = Control()
        self._wakeup = Wakeup(self._note_due, self._note_change, self._note_gap)
        self._kick = asyncio.Event()
        self._looking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        #: The runs that wait, start or run here.
        self._local: dict[UUID, LocalRun] = {}
        #: Runs that are due while they still have a life here, which is about to end.
        self._again: set[UUID] = set()
        #: When to look again at runs that are too large.
        self._too_large: dict[UUID, float] = {}

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        template = super().get_default_base_job_template()
        # There is no command: a run is a function call in a fork.
        del template["job_configuration"]["command"]
        del template["variables"]["properties"]["command"]
        return template

    # --- life of the worker

    async def start(self, *args: Any, **kwargs: Any) -> None:
        """Work until the task is cancelled; SIGTERM and SIGINT do that.

        Prefect's command line sends itself a SIGINT for a SIGTERM, which does nothing in a process that was started
        with SIGINT ignored: whatever a shell script starts in the background.
        """
        task, stops = asyncio.current_task(), [signal.SIGTERM, signal.SIGINT]
        assert task is not None
        if threading.current_thread() is not threading.main_thread():
            stops.clear()  # they are for somebody else to handle
        loop = asyncio.get_running_loop()
        for number in stops:
            loop.add_signal_handler(number, task.cancel)
        try:
            await super().start(*args, **kwargs)
        finally:
            for number in stops:
                loop.remove_signal_handler(number)

    async def setup(self) -> None:
        self._scratch.open()
        if (ready_file := self.yard_settings.ready_file) is not None:
            ready_file.unlink(missing_ok=True)
        await self._forks.start_server()
        # The forkserver imports for seconds anyway, and without the server nothing below would last.
        await wait_for_prefect()
        self._runs = PrefectRuns.of_settings()
        await super().setup()
        await self._control.__aenter__()
        self._place = Workplace(
            worker=self.name,
            owner=self._owner,
            runs=self._runs,
            slots=self._slots,
            forks=self._forks,
            control=self._control,
            scratch=self._scratch,
            grace_s=self.yard_settings.grace_s,
            gpu_type=await asyncio.to_thread(gpu_type, gpu_ids(self.yard_settings.gpus)),
        )
        self._capacity = measure(
            self.name,
            cpus=self._slots.total.cpus,
            gpus=self._slots.total.gpus,
            gpu_type=self._place.gpu_type,
            scratch=self.yard_settings.scratch,
        )
        await announce(self._capacity)
        self._reaper = Reaper(
            str(self.client.api_url),
            None,
            self._work_pool_name,
            runs=PrefectRuns.of_settings(patience_s=_LAST_PATIENCE_S),
            machine=self._machine,
            scratch=self.yard_settings.scratch,
        )
        await self._reaper.look()
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
        self._runs.patience_s = _LAST_PATIENCE_S
        try:
            await super().teardown(*exc_info)
        finally:
            await self._control.__aexit__(*exc_info)
            await self._forks.close()
            await self._reaper.close()
            await self._runs.close()
            self._scratch.close()

    def _in_background(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- hearing of runs

    async def _watch_pool(self) -> None:
        """Serve wake-ups until the worker stops."""
        self._in_background(self._wakeup.listen(self.work_pool.id))
        self._in_background(self._reap_for_ever())
        self._in_background(self._look_at_runs_for_ever())
        self._in_background(self._build_fence().watch())
        while True:
            await self._kick.wait()
            self._kick.clear()
            try:
                await self.get_and_submit_flow_runs()
            except Exception:  # the poll loop of Prefect reports what lasts
                self._logger.debug("Could not look for runs", exc_info=True)

    def _build_fence(self) -> Fence:
        def freeze() -> None:
            for run in self._local.values():
                if run.process is not None:
                    run.process.freeze()

        async def thaw() -> None:
            await self._look_at_runs()
            for run in self._local.values():
                if run.process is not None:
                    run.process.thaw()

        async def beat() -> None:
            await self._runs.beat(self._work_pool_name, self.name, self.heartbeat_interval_seconds)

        settings = self.yard_settings
        is_fenced = is_far(str(self.client.api_url)) if settings.fence is None else settings.fence
        return Fence(beat, freeze, thaw, settings.fence_after_s if is_fenced else math.inf)

    async def _reap_for_ever(self) -> None:
        while True:
            try:
                await self._reaper.look()
                await self._scratch.finish_logs(self._local)
                await sweep(self.yard_settings.scratch)
            except Exception:  # whatever it is, this worker still has runs of its own; the next look tries again
                self._logger.warning("Could not clear up after workers that are gone.", exc_info=True)
            await asyncio.sleep(LOOK_S)

    async def _look_at_runs_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RUNS_LOOK_S)
            try:
                await self._look_at_runs()
            except Exception:  # whatever it is, the next look tries again
                self._logger.warning("Could not look at the runs of this worker.", exc_info=True)

    async def _look_at_runs(self) -> None:
        started = [run_id for run_id, run in self._local.items() if not run.is_waiting]
        if started:
            asked_at = time.monotonic()
            known = await self._runs.read_many(started)
            for run_id in started:
                self._heed(run_id, known.get(run_id), asked_at)

    def _heed(self, run_id: UUID, now: Run | None, asked_at: float) -> None:
        if (run := self._local.get(run_id)) is not None:
            run.heed(now, asked_at)

    async def _look_at(self, run_id: UUID) -> None:
        # Read again: after a reconnect the stream repeats events of up to 15 minutes ago.
        asked_at = time.monotonic()
        self._heed(run_id, await self._runs.read(run_id), asked_at)

    def _note_due(self, run_id: UUID) -> None:
        run = self._local.get(run_id)
        if run is not None and not run.is_waiting:
            # Resumed or retried before its last process has ended.
            self._again.add(run_id)
        else:
            self._too_large.pop(run_id, None)
            self._kick.set()

    def _note_gap(self) -> None:
        self._kick.set()
        self._in_background(self._look_at_runs())

    def _note_change(self, run_id: UUID, state_type: str) -> None:
        if (run := self._local.get(run_id)) is None:
            return
        if run.is_waiting or state_type in (_STOPS_OF_TAKEN if run.process is None else _STOPS_OF_RUNNING):
            self._in_background(self._look_at(run_id))

    # --- the queue

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        # One look at a time: the answer is the order of the queue.
        async with self._looking:
            return await super().get_and_submit_flow_runs()

    async def _get_scheduled_flow_runs(self) -> list[WorkerFlowRunResponse]:
        """Return runs that are due, in their order; a run that is due soon wakes the worker then."""
        raw = await self._runs.read_due(self._work_pool_name, self._work_queues, self._prefetch_seconds)
        due = []
        for response in WorkerFlowRunResponse.model_validate_list(raw):
            at = response.flow_run.next_scheduled_start_time or response.flow_run.expected_start_time
            wait_s = 0.0 if at is None else at.timestamp() - time.time()
            if wait_s <= 0:
                due.append(response)
            else:
                asyncio.get_running_loop().call_later(wait_s, self._kick.set)
        return due

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[WorkerFlowRunResponse]) -> list[FlowRun]:
        """Let the runs that are due stand in line for slots. They stay Scheduled until they have them."""
        due = [response.flow_run for response in flow_run_response]
        ids = {flow_run.id for flow_run in due}
        for run_id, run in self._local.items():
            if run.is_waiting and run_id not in ids:
                run.drop()
        now = time.monotonic()
        self._too_large = {run_id: again for run_id, again in self._too_large.items() if again > now}
        assert self._runs_task_group is not None
        for flow_run in due:
            if (known := self._local.get(flow_run.id)) is not None:
                if not known.is_waiting:
                    self._again.add(flow_run.id)
            elif flow_run.id not in self._too_large:
                self._local[flow_run.id] = run = LocalRun(self._place, flow_run)
                self._runs_task_group.start_soon(self._serve, run)
        self._slots.order(self._local[flow_run.id].ticket for flow_run in due if flow_run.id in self._local)
        return due

    def _demand(self, configuration: TrainyardJobConfiguration) -> Demand:
        gpus = configuration.gpus
        if gpus is None:
            gpus = min(configuration.gpus_up_to, self._slots.total.gpus)
        return Demand(cpus=configuration.cpus, gpus=gpus)

    async def _serve(self, run: LocalRun) -> None:
        """See one run through: queue, process, end."""
        flow_run = run.flow_run
        try:
            deployment = None
            if flow_run.deployment_id is not None:
                try:
                    deployment = await self.client.read_deployment(flow_run.deployment_id)
                except ObjectNotFound:
                    await self._end(flow_run, NewState(type="CANCELLED", name="Cancelled", message=_NO_DEPLOYMENT))
                    return
            configuration = await self.job_configuration.resolve_for_flow_run(
                flow_run,
                client=self.client,
                work_pool=self.work_pool,
                worker_name=self.name,
                worker_id=self.backend_id,
                deployment=deployment,
            )
            demand = self._demand(configuration)
            lacks = self._lacks(configuration)
            if lacks or not self._slots.fits(demand):
                self._slots.give_back(run.ticket)
                asked, has = [str(demand)], [str(self._slots.total)]
                for one_asked, one_has in lacks:
                    asked.append(one_asked)
                    has.append(one_has)
                await self._refuse(flow_run, ", ".join(asked), ", ".join(has))
                return
            self._slots.ask(run.ticket, demand)
            if await run.wait_for_slots():
                await self._start(run, configuration, deployment)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            # It stays in the queue; the next look finds it.
            self._logger.warning("Flow run '%s' cannot be started yet: %s", flow_run.name, error)
        except Exception as error:  # whatever it is, the other runs go on
            self._logger.exception("Flow run '%s' cannot be started.", flow_run.name)
            message = f"The run could not be started: {type(error).__name__}: {error}"
            await self._end(flow_run, NewState(type="CRASHED", name="Crashed", message=message))
        finally:
            self._slots.give_back(run.ticket)
            self._local.pop(flow_run.id, None)
            if flow_run.id in self._again:
                self._again.discard(flow_run.id)
                self._kick.set()

    def _lacks(self, configuration: TrainyardJobConfiguration) -> list[tuple[str, str]]:
        """Return what this machine is not or has not, beside slots: what is asked for, and what there is."""
        mine, found = self._capacity, []
        if (wanted := configuration.gpu_type) and not mine.has_gpu(wanted):
            found.append(
                (f"GPUs of type {wanted}", f"GPUs of type {mine.gpu_type}" if mine.gpu_type else "no GPU type")
            )
        if (memory_mb := configuration.memory_mb) is not None and memory_mb > mine.memory_mb:
            found.append((f"{memory_mb} MiB of memory", f"{mine.memory_mb} MiB of memory"))
        if (disk_mb := configuration.disk_mb) is not None and disk_mb > mine.disk_mb:
            found.append((f"{disk_mb} MiB of disk", f"{mine.disk_mb} MiB of disk"))
        return found

    async def _refuse(self, flow_run: FlowRun, asked: str, total: str) -> None:
        """Leave a run that is too large to larger workers; fail it when no worker that is online is one."""
        self._too_large[flow_run.id] = time.monotonic() + _TOO_LARGE_LOOK_S
        label = f"{_TOO_SMALL_LABEL}{self.name}"
        if flow_run.labels.get(label) != total:
            await self._runs.label(flow_run.id, {label: total})
        beats = await self._runs.read_beats(self._work_pool_name)
        if (now := await self._runs.read(flow_run.id)) is None:
            return
        small = {
            name.removeprefix(_TOO_SMALL_LABEL): has
            for name, has in now.labels.items()
            if name.startswith(_TOO_SMALL_LABEL)
        }
        if now.state_type != "SCHEDULED" or beats.online - {self.name} - small.keys():
            return
        others = {name: has for name, has in small.items() if name in beats.online and name != self.name}
        who = f"the worker has {total}"
        if others:
            listed = [f"{name} has {has}" for name, has in sorted({**others, self.name: total}.items())]
            who = f"no worker has that much: {', '.join(listed)}"
        message = (
            f"The run asks for {asked}, but {who}. "
            "Lower `cpus` or `gpus` in the job variables, or start a larger worker."
        )
        await self._runs.move(now, NewState(type="FAILED", name="Failed", message=message), force=False)

    async def _end(self, flow_run: FlowRun, state: NewState) -> None:
        """End a run that nobody has taken."""
        now = await self._runs.read(flow_run.id)
        if now is not None and now.state_type == "SCHEDULED":
            await self._runs.move(now, state)

    # --- one run

    async def _start(
        self,
        run: LocalRun,
        configuration: TrainyardJobConfiguration,
        deployment: DeploymentResponse | None,
        *,
        is_taken: bool = False,
    ) -> int | None:
        """Run a run that has its slots to its end; return the exit status, None if nothing was started."""
        assignment = Assignment(
            environment=self._environment(run, configuration, deployment),
            cpus=max(1, configuration.cpus),
            max_attempts=configuration.max_attempts,
            labels={
                "prefect.worker.name": self.name,
                "prefect.worker.type": self.type,
                "prefect.work-pool.name": self.work_pool.name,
                "prefect.work-pool.id": str(self.work_pool.id),
            },
        )
        submitted = self._emit_flow_run_submitted_event(configuration)
        status = await run.see_through(assignment, is_taken=is_taken)
        if status is not None and submitted is not None:
            result = TrainyardWorkerResult(identifier=str(run.flow_run.id), status_code=status)
            self._emit_flow_run_executed_event(result, configuration, submitted)
        return status

    def _environment(
        self, run: LocalRun, configuration: TrainyardJobConfiguration, deployment: DeploymentResponse | None
    ) -> dict[str, str]:
        environment: dict[str, str] = {
            **os.environ,
            OWNER_VARIABLE: self._owner,
            # For what a run starts itself; torch has read these long ago.
            **dict.fromkeys(_THREAD_VARIABLES, str(max(1, configuration.cpus))),
            **_without_none(configuration.env),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(run.ticket.gpu_ids),
            "PREFECT__FLOW_RUN_ID": str(run.flow_run.id),
            # Hooks for these two are ours to run, once the process is gone.
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        environment.pop("PREFECT__FLOW_ENTRYPOINT", None)
        if (entrypoint := _direct_entrypoint(deployment)) is not None:
            environment["PREFECT__FLOW_ENTRYPOINT"] = entrypoint
        return environment

    # --- the interface of Prefect's ad-hoc submission

    async def run(
        self,
        flow_run: FlowRun,
        configuration: TrainyardJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> TrainyardWorkerResult:
        self._local[flow_run.id] = run = LocalRun(self._place, flow_run)
        if task_status is not None:
            task_status.started(0)
        try:
            self._slots.ask(run.ticket, self._demand(configuration))
            await run.wait_for_slots()
            status = await self._start(run, configuration, None, is_taken=True)
        finally:
            self._slots.give_back(run.ticket)
            self._local.pop(flow_run.id, None)
        return TrainyardWorkerResult(identifier=str(flow_run.id), status_code=1 if status is None else status)


def _direct_entrypoint(deployment: DeploymentResponse | None) -> str | None:
    """Return the entrypoint where no code has to be fetched for it, which spares the child a request."""
    if deployment is None or deployment.pull_steps or deployment.storage_document_id or not deployment.entrypoint:
        return None
    file, colon, _ = deployment.entrypoint.rpartition(":")
    return deployment.entrypoint if not colon or (Path(file).is_absolute() and not deployment.path) else None


def _without_none(environment: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if value is not None}

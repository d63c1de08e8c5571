"""Every private name of Prefect that the yard uses, and nothing else.

Prefect 3.8 offers no public way to run a flow run in a process of our own making or to serialise
the writers of its SQLite database. `tests/deployments/test_prefect_internals.py` checks that each
thing used here is still there and still behaves as needed.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID
from weakref import WeakKeyDictionary

import anyio.abc
from prefect._internal.attempt_control import Intent
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.runner._cancellation_manager import CancellationManager
from prefect.runner._control_channel import ControlChannel, ControlSignalStatus
from prefect.runner._event_emitter import EventEmitter
from prefect.runner._flow_run_executor import FlowRunExecutor
from prefect.runner._hook_runner import FlowRunHookRunner, HookRunner
from prefect.runner._process_manager import ProcessHandle, ProcessManager
from prefect.runner._state_proposer import StateProposer

if TYPE_CHECKING:
    from prefect.flows import Flow
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

RESCHEDULE: Intent = "reschedule"

# --- server --------------------------------------------------------------------------------------


class _Writer:
    """One open write transaction; `active` ends with it."""

    active = True


_LOCKS: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_WRITER: ContextVar[_Writer | None] = ContextVar("trainyard_sqlite_writer", default=None)


def serialise_sqlite_writers() -> None:
    """Let one writer at a time into the Prefect server's SQLite database, each `BEGIN IMMEDIATE`.

    Prefect's write routes read first and write later in a deferred transaction. Two of them at a
    time end in SQLITE_BUSY_SNAPSHOT, for which no busy timeout applies, so the request fails and
    the client sleeps for seconds: p95 6.4 s with 16 clients, 0.25-0.37 s with this.
    """
    # Late: only the server process pays for these imports.
    from prefect.server.database.configurations import AioSqliteConfiguration

    stock = AioSqliteConfiguration.begin_transaction
    if getattr(stock, "serialised", False):
        return

    @asynccontextmanager
    async def begin_transaction(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction, None]:
        outer = _WRITER.get()
        if outer is not None and outer.active:
            # A transaction inside another one would wait for itself.
            async with stock(self, session, with_for_update=with_for_update) as transaction:
                yield transaction
            return
        loop = asyncio.get_running_loop()
        async with _LOCKS.setdefault(loop, asyncio.Lock()):
            writer = _Writer()
            token = _WRITER.set(writer)
            try:
                async with stock(self, session, with_for_update=True) as transaction:
                    yield transaction
            finally:
                writer.active = False
                _WRITER.reset(token)

    patched: Any = begin_transaction
    patched.serialised = True
    AioSqliteConfiguration.begin_transaction = patched  # type: ignore[method-assign]


# --- worker --------------------------------------------------------------------------------------


class RunProcess(Protocol):
    """The process of one flow run, leader of a process group of its own."""

    pid: int
    returncode: int | None

    async def wait(self) -> int: ...


class _Group:
    """How Prefect stops a run: SIGTERM to the leader, SIGKILL to the whole group.

    The leader alone gets the SIGTERM: a DataLoader worker that dies of a signal raises an error in
    the leader, in the middle of the checkpoint that it is writing.
    """

    wait_after_graceful_kill = True

    def is_alive(self, pid: int) -> bool:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def graceful_kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)

    def hard_kill(self, pid: int) -> None:
        os.killpg(pid, signal.SIGKILL)

    def close(self) -> None: ...


class _Processes(ProcessManager):
    """Prefect's process table with our grace; the stock loop looks once a second, for 30 s."""

    def __init__(self, grace_s: float) -> None:
        super().__init__()
        self._grace_s = grace_s

    async def kill(self, flow_run_id: UUID, grace_seconds: float = 30, *, force: bool = False) -> None:
        handle = self.get(flow_run_id)
        if handle is None or handle.returncode is not None:
            return
        process: Any = handle.raw_process
        with suppress(ProcessLookupError):
            if not force:
                handle.graceful_kill()
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(process.wait()), self._grace_s)
                    return
            handle.hard_kill()
            await process.wait()


class _Proposer(StateProposer):
    """Prefect's proposer, silent about runs whose next state somebody else sets; names the signal."""

    def __init__(self, *, client: PrefectClient) -> None:
        super().__init__(client=client)
        self.disowned: set[UUID] = set()

    async def propose_crashed(self, flow_run: FlowRun, message: str) -> State[Any] | None:
        if flow_run.id in self.disowned:
            return None
        return await super().propose_crashed(flow_run, message=name_signal(message))


def name_signal(message: str) -> str:
    """Add the signal's name to Prefect's `Process exited with status code: -11. ...`."""
    head, marker, tail = message.partition("status code: -")
    number, dot, rest = tail.partition(".")
    if not marker or not number.isdigit() or int(number) not in signal.valid_signals():
        return message
    return f"{head}{marker}{number} ({signal.Signals(int(number)).name}){dot}{rest}"


#: Starts the process of a run: port and token of the control channel go into its environment.
StartProcess = Callable[[dict[str, str]], Awaitable[RunProcess]]


class RunSupervisor:
    """Prefect's own parts that see a flow run through in a process: one set for all runs of a worker.

    A stock worker builds a set per run, which costs 0.3 s of every start.
    """

    def __init__(self, client: PrefectClient, hooks: FlowRunHookRunner, grace_s: float) -> None:
        self._client = client
        self._hooks = hooks
        self._grace_s = grace_s
        self._stack = AsyncExitStack()
        self._control = ControlChannel()
        self._processes = _Processes(grace_s)
        self._proposer = _Proposer(client=client)
        self._cancels: dict[UUID, asyncio.Task[None]] = {}

    async def __aenter__(self) -> RunSupervisor:
        emitter = EventEmitter(runner_name="trainyard", client=self._client)
        await self._stack.enter_async_context(emitter)
        await self._stack.enter_async_context(self._control)
        await self._stack.enter_async_context(self._processes)
        self._cancellation = CancellationManager(
            process_manager=self._processes,
            hook_runner=self._hooks,
            state_proposer=self._proposer,
            event_emitter=emitter,
            client=self._client,
            control_channel=self._control,
        )
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self._stack.__aexit__(*exc_info)

    async def execute(self, flow_run: FlowRun, start: StartProcess) -> int | None:
        """Run to the end and report a crash; return the exit status, None if nothing was started."""
        starter = _Starter(self._control, start)
        executor = FlowRunExecutor(
            flow_run=flow_run,
            starter=starter,
            process_manager=self._processes,
            state_proposer=self._proposer,
            hook_runner=self._hooks,
            propose_submitting=False,
            get_attempt_conclusion=self._control.get_conclusion,
        )
        try:
            result = await executor.submit()
            if (cancel := self._cancels.get(flow_run.id)) is not None:
                await asyncio.wait([cancel])
        finally:
            self._cancels.pop(flow_run.id, None)
            self._control.unregister(flow_run.id)
            self._proposer.disowned.discard(flow_run.id)
        return None if result is None else result.status_code

    def is_running(self, flow_run_id: UUID) -> bool:
        return self._processes.get(flow_run_id) is not None

    def is_concluded(self, flow_run_id: UUID) -> bool:
        """Tell whether the run has reported its last state; its process may need another second to end."""
        return self._control.get_conclusion(flow_run_id) is not None

    def cancel(self, flow_run: FlowRun) -> None:
        """Start Prefect's cancellation: intent, SIGTERM, SIGKILL after the grace, hooks, Cancelled."""
        if flow_run.id not in self._cancels:
            self._proposer.disowned.add(flow_run.id)
            self._cancels[flow_run.id] = asyncio.create_task(self._cancellation.cancel(flow_run))

    async def stop_for_later(self, flow_run_id: UUID) -> None:
        """End the process with the intent `reschedule`: the engine saves and proposes no state."""
        if flow_run_id in self._cancels:
            return
        self._proposer.disowned.add(flow_run_id)
        status = await self._control.signal(flow_run_id, RESCHEDULE)
        await self._processes.kill(flow_run_id, force=status is ControlSignalStatus.NOT_ACKNOWLEDGED)


class _Starter:
    """Prefect's `ProcessStarter` around a function that starts a process."""

    def __init__(self, control: ControlChannel, start: StartProcess) -> None:
        self._control = control
        self._start = start

    async def start(
        self, flow_run: FlowRun, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        port, token = self._control.register(flow_run.id)
        process = await self._start({"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token})
        handle: Any = process
        task_status.started(ProcessHandle(handle, termination_scope=_Group()))
        await process.wait()


# --- run process ---------------------------------------------------------------------------------


def refresh_settings() -> None:
    """Make Prefect follow `os.environ` of a process that was forked with another one."""
    import prefect.context
    from prefect.logging.configuration import setup_logging

    prefect.context.refresh_global_settings_context()
    setup_logging()


def run_engine(flow_run: FlowRun) -> None:
    """Run a flow run here as `python -m prefect.engine` does; leaves by SystemExit unless all is well."""
    from prefect._internal.control_listener import configure_from_env
    from prefect._internal.metrics import RunMetrics
    from prefect.engine import _drive_run_flow_result, handle_engine_signals
    from prefect.flow_engine import load_flow, run_flow
    from prefect.logging.loggers import flow_run_logger

    configure_from_env()
    with handle_engine_signals(flow_run.id):
        logger: Any = flow_run_logger(flow_run=flow_run)
        try:
            flow = load_flow(flow_run)
        except Exception:
            logger.error("Unexpected exception encountered when trying to load flow", exc_info=True)
            raise
        with RunMetrics(flow_run, flow):
            result = run_flow(flow, flow_run=flow_run, error_logger=logger)
            _drive_run_flow_result(flow, result)


def run_hooks(flow_run: FlowRun, state: State[Any]) -> None:
    """Run the hooks of the flow for `state`, Cancelling or Crashed."""
    from prefect.flow_engine import load_flow

    flow = load_flow(flow_run)

    async def resolve(_: FlowRun) -> Flow[..., Any]:
        return flow

    async def run() -> None:
        runner = HookRunner(resolve_flow=resolve)
        await runner.run_cancellation_hooks(flow_run, state)
        await runner.run_crashed_hooks(flow_run, state)

    asyncio.run(run())


def contract() -> list[object]:
    """Return every private thing by name, so that a test can see that all are there."""
    from prefect import context
    from prefect._internal import control_listener, metrics
    from prefect._internal.concurrency.services import _QueueServiceBase
    from prefect.engine import _drive_run_flow_result, handle_engine_signals
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.workers.base import BaseWorker

    return [
        AioSqliteConfiguration.begin_transaction,
        _QueueServiceBase._drain,
        BaseWorker._get_scheduled_flow_runs,
        BaseWorker._submit_scheduled_flow_runs,
        BaseWorker._submit_run,
        BaseWorker._release_limit_slot,
        BaseWorker._give_worker_labels_to_flow_run,
        BaseWorker._mark_flow_run_as_cancelled,
        BaseWorker._emit_flow_run_submitted_event,
        BaseWorker._emit_flow_run_executed_event,
        context.refresh_global_settings_context,
        control_listener.configure_from_env,
        metrics.RunMetrics,
        _drive_run_flow_result,
        handle_engine_signals,
        inspect.signature(FlowRunExecutor),
    ]

"""Every private name of Prefect that the yard uses, and nothing else.

Prefect 3.8 offers no public way to run a flow run in a process of our own making or to serialise
the writers of its SQLite database. `tests/deployments/test_prefect_internals.py` checks that each
thing used here is still there and still behaves as needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID
from weakref import WeakKeyDictionary

from prefect._internal.attempt_control import Intent
from prefect.client.schemas.objects import FlowRun, State
from prefect.runner._control_channel import ControlChannel
from prefect.runner._hook_runner import HookRunner

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


class Control:
    """Prefect's channel between a worker and the engines of its runs, one for all runs.

    A run tells its last state over it, so that its slots are free before its process has ended.
    """

    def __init__(self) -> None:
        self._channel = ControlChannel()

    async def __aenter__(self) -> Control:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._channel.__aexit__(*exc_info)

    def register(self, flow_run_id: UUID) -> dict[str, str]:
        """Return what the process of the run needs in its environment."""
        port, token = self._channel.register(flow_run_id)
        return {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}

    def unregister(self, flow_run_id: UUID) -> None:
        self._channel.unregister(flow_run_id)

    def is_concluded(self, flow_run_id: UUID) -> bool:
        """Tell whether the run has reported its last state; its process may need another second to end."""
        return self._channel.get_conclusion(flow_run_id) is not None


# --- run process ---------------------------------------------------------------------------------


def refresh_settings() -> None:
    """Make Prefect follow `os.environ` of a process that was forked with another one."""
    import prefect.context
    from prefect.logging.configuration import setup_logging

    prefect.context.refresh_global_settings_context()
    setup_logging()


def leave_stops_to_the_worker() -> None:
    """Let the engine set no state when a SIGTERM ends it: the worker knows what the stop is for, and sets it after.

    Prefect tells the engine by a message before the signal, and kills the process at once when the message is not
    acknowledged within a second, as when a long computation holds the interpreter.
    """
    from prefect._internal import control_listener

    stock = control_listener.start

    def start() -> None:
        stock()
        control_listener._set_intent(RESCHEDULE)

    control_listener.start = start


def leave_heartbeats_behind() -> None:
    """Let a run end without its heartbeat thread, which sleeps a second at a time.

    Prefect waits for it between the last state of a run and its end: 0.5 s on average in which the slot is not free.
    """
    from prefect import flow_engine

    flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)


def run_engine(flow_run: FlowRun) -> None:
    """Run a flow run here as `python -m prefect.engine` does; leaves by SystemExit unless all is well."""
    from prefect._internal.control_listener import configure_from_env
    from prefect._internal.metrics import RunMetrics
    from prefect.engine import _drive_run_flow_result, handle_engine_signals
    from prefect.flow_engine import load_flow, run_flow
    from prefect.logging.loggers import flow_run_logger

    leave_stops_to_the_worker()
    leave_heartbeats_behind()
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
    from prefect import context, flow_engine
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
        BaseWorker._emit_flow_run_submitted_event,
        BaseWorker._emit_flow_run_executed_event,
        flow_engine._send_heartbeats,
        ControlChannel.register,
        ControlChannel.unregister,
        ControlChannel.get_conclusion,
        context.refresh_global_settings_context,
        control_listener.configure_from_env,
        control_listener.start,
        control_listener._set_intent,
        metrics.RunMetrics,
        HookRunner.run_cancellation_hooks,
        HookRunner.run_crashed_hooks,
        _drive_run_flow_result,
        handle_engine_signals,
    ]

"""Ending an action on request: at its next checkpoint when it asks for that, else at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from prefect.context import FlowRunContext

#: Environment variable from the worker: seconds from SIGTERM to SIGKILL. Most of them may go into a checkpoint.
GRACE_VARIABLE = "TRAINYARD_STOP_GRACE_S"
GRACE_S = 10.0
GRACE_SHARE = 0.7


class StopRequest:
    """A SIGTERM to this process, or the suspension of the run by a person in the Prefect UI.

    Whoever asks `is_requested` is not interrupted any more: it promises to ask again soon, to save and to
    return. Whoever has nothing to save calls `allow_interruption` first.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._is_signalled = False
        self._is_overdue = False
        self._is_raised = False
        self._raise: Callable[[], None] = lambda: None
        # why: found here, because the contexts of Prefect are not there in other threads.
        context = FlowRunContext.get()
        self._suspension = context.flow_run_suspension_request if context else None

    def is_requested(self) -> bool:
        self._is_asked = True
        return self._is_signalled or (self._suspension is not None and self._suspension.is_requested())

    def allow_interruption(self) -> None:
        """From now on a stop interrupts at once, as does one that was requested before."""
        self._is_asked = False
        self.raise_if_requested()

    def raise_if_requested(self) -> None:
        """Do what Prefect does on a stop: raise TerminationSignal or Pause."""
        if self._is_signalled:
            self._is_raised = True
            self._raise()
        if self._suspension is not None:
            self._suspension.raise_if_requested()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        is_first, self._is_signalled = not self._is_signalled, True
        if self._is_raised:
            return  # why: what was interrupted is being saved; SIGKILL ends that if it takes too long
        if not self._is_asked or self._is_overdue:
            self._is_raised = True
            self._raise()
        elif is_first:
            grace_s = float(os.environ.get(GRACE_VARIABLE, GRACE_S))
            timer = threading.Timer(GRACE_SHARE * grace_s, self._interrupt)
            timer.daemon = True
            timer.start()

    def _interrupt(self) -> None:
        self._is_overdue = True
        main = threading.main_thread().ident
        # why: a signal, because only that interrupts what the main thread waits for.
        if main is not None and signal.getsignal(signal.SIGTERM) == self.on_signal:
            signal.pthread_kill(main, signal.SIGTERM)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take over SIGTERM inside the block; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self.on_signal)

        def act_as_before() -> None:
            if callable(previous):
                previous(signal.SIGTERM, None)
            elif previous == signal.SIG_DFL:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)

        self._raise = act_as_before
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

"""Who may run now: CPU slots and GPUs of one worker, given out strictly in order."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from ..schemas.errors import JobFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one run asks for."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue, taken before it is known what the run asks for."""

    demand: Demand | None = None
    gpu_ids: tuple[str, ...] = ()
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """The CPUs and GPUs that one worker gives to its runs.

    First come, first served: a run that needs many slots is not overtaken for ever by small ones.
    """

    def __init__(self, *, cpus: int, gpu_ids: tuple[str, ...]) -> None:
        self._total = Demand(cpus=cpus, gpus=len(gpu_ids))
        self._free_cpus = cpus
        self._free_gpu_ids = list(gpu_ids)
        self._queue: deque[Ticket] = deque()

    @property
    def total(self) -> Demand:
        """What the worker has."""
        return self._total

    def take_ticket(self) -> Ticket:
        ticket = Ticket()
        self._queue.append(ticket)
        return ticket

    def ask(self, ticket: Ticket, demand: Demand) -> None:
        """Say what the ticket is for; `ticket.granted` is set as soon as the slots are its own.

        Raises:
            JobFailed: the worker does not have that much.
        """
        if demand.cpus > self._total.cpus or demand.gpus > self._total.gpus:
            raise JobFailed(
                f"The run asks for {demand}, but the worker has {self._total}.",
                hint="Lower `cpus` or `gpus` in the job variables, or start a larger worker.",
            )
        ticket.demand = demand
        self._grant()

    def why_waiting(self, ticket: Ticket) -> str:
        """Return a sentence for the user."""
        ahead = self._queue.index(ticket)
        free = Demand(cpus=self._free_cpus, gpus=len(self._free_gpu_ids))
        return f"Waits for {ticket.demand}; {free} of {self._total} are free and {_count(ahead, 'run')} ahead of it."

    def give_back(self, ticket: Ticket) -> None:
        """Return the slots of a ticket, or its place in the queue. Harmless when done twice."""
        if ticket.granted.is_set():
            if ticket.demand is not None:
                self._free_cpus += ticket.demand.cpus
                self._free_gpu_ids = sorted([*self._free_gpu_ids, *ticket.gpu_ids])
                ticket.demand = None
        elif ticket in self._queue:
            self._queue.remove(ticket)
        self._grant()

    def _grant(self) -> None:
        while self._queue:
            ticket = self._queue[0]
            demand = ticket.demand
            if demand is None or demand.cpus > self._free_cpus or demand.gpus > len(self._free_gpu_ids):
                return
            self._queue.popleft()
            self._free_cpus -= demand.cpus
            ticket.gpu_ids = tuple(self._free_gpu_ids[: demand.gpus])
            del self._free_gpu_ids[: demand.gpus]
            ticket.granted.set()


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"

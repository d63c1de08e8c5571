"""Who may run now: CPU slots and GPUs of one worker, given out strictly in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one run asks for."""

    cpus: int
    gpus: int

    @property
    def takes_a_run(self) -> bool:
        """Whether it counts among the runs of the worker. One that only waits for others must not keep them out."""
        return self.cpus > 0 or self.gpus > 0

    def __str__(self) -> str:
        return f"{_count(self.cpus, 'CPU')} and {_count(self.gpus, 'GPU')}"


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue, taken before it is known what the run asks for."""

    rank: int
    demand: Demand | None = None
    gpu_ids: tuple[str, ...] = ()
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class Slots:
    """The CPUs and GPUs that one worker gives to its runs, at most `runs` of them at a time.

    The first in the order that the server has told comes first: a run that needs many slots is not
    overtaken for ever by small ones.
    """

    def __init__(self, *, cpus: int, gpu_ids: tuple[str, ...], runs: int | None = None) -> None:
        self._total = Demand(cpus=cpus, gpus=len(gpu_ids))
        self._free_cpus = cpus
        self._free_gpu_ids = list(gpu_ids)
        self._free_runs: float = math.inf if runs is None else runs
        self._queue: list[Ticket] = []

    @property
    def total(self) -> Demand:
        """What the worker has."""
        return self._total

    def fits(self, demand: Demand) -> bool:
        """Tell whether the worker could ever give so much."""
        return demand.cpus <= self._total.cpus and demand.gpus <= self._total.gpus

    def take_ticket(self) -> Ticket:
        """Return a ticket at the end of the queue."""
        ticket = Ticket(rank=self._queue[-1].rank + 1 if self._queue else 0)
        self._queue.append(ticket)
        return ticket

    def order(self, tickets: Iterable[Ticket]) -> None:
        """Put these tickets first, in this order."""
        ranks = {id(ticket): rank for rank, ticket in enumerate(tickets)}
        for ticket in self._queue:
            ticket.rank = ranks.get(id(ticket), len(ranks) + ticket.rank)
        self._queue.sort(key=lambda ticket: ticket.rank)
        self._grant()

    def ask(self, ticket: Ticket, demand: Demand) -> None:
        """Say what the ticket is for; `ticket.granted` is set as soon as the slots are its own."""
        ticket.demand = demand
        self._grant()

    def give_back(self, ticket: Ticket) -> None:
        """Return the slots of a ticket, or its place in the queue. Harmless when done twice."""
        if ticket.granted.is_set():
            if ticket.demand is not None:
                self._free_runs += ticket.demand.takes_a_run
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
            if demand is None or not self._has(demand):
                return
            self._queue.pop(0)
            self._free_runs -= demand.takes_a_run
            self._free_cpus -= demand.cpus
            ticket.gpu_ids = tuple(self._free_gpu_ids[: demand.gpus])
            del self._free_gpu_ids[: demand.gpus]
            ticket.granted.set()

    def _has(self, demand: Demand) -> bool:
        return (
            demand.takes_a_run <= self._free_runs
            and demand.cpus <= self._free_cpus
            and demand.gpus <= len(self._free_gpu_ids)
        )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"

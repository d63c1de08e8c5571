"""Whether any worker could ever run a command: what it asks for, against what they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ....deployments.capacity import Capacity
from ....schemas.errors import InvalidInput


class Wanted(Protocol):
    """What a job asks of a worker."""

    cpus: int
    gpus: int
    gpu_type: str | None
    memory_mb: int | None
    disk_mb: int | None


def refuse_unfitting(command: Wanted, workers: Sequence[Capacity]) -> None:
    """Raise when workers are known and none has what the command asks for. Without any, the job waits for one."""
    if not workers or any(not _lacks(command, worker) for worker in workers):
        return
    # The one that lacks the least tells most about what is wrong.
    nearest = min(workers, key=lambda worker: len(_lacks(command, worker)))
    raise InvalidInput(
        f"No worker can run this: {'; '.join(_lacks(command, nearest))}.",
        hint="Ask for less, or start a larger worker.",
    )


def _lacks(command: Wanted, worker: Capacity) -> list[str]:
    """Return what a worker has too little of."""
    found = []
    for name, asked, has in (
        ("cpus", command.cpus, worker.cpus),
        ("gpus", command.gpus, worker.gpus),
        ("memory_mb", command.memory_mb or 0, worker.memory_mb),
        ("hdd_size_mb", command.disk_mb or 0, worker.disk_mb),
    ):
        if asked > has:
            found.append(f"{name}: {asked} asked for, the worker {worker.name} has {has}")
    if command.gpus and command.gpu_type and not worker.has_gpu(command.gpu_type):
        found.append(
            f"gpu_type: {command.gpu_type} asked for, the worker {worker.name} has {worker.gpu_type or 'none'}"
        )
    return found

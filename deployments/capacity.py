"""What workers have, told to everybody by variables of the Prefect server: one for each worker."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil
from prefect.variables import Variable
from pydantic import BaseModel, ValidationError

#: Names of the variables; a worker's own name may hold what theirs may not.
PREFIX = "trainyard_worker_"

_MIB = 2**20


class Capacity(BaseModel):
    """What one worker can give to one run."""

    name: str
    cpus: int
    gpus: int
    gpu_type: str | None = None
    memory_mb: int
    disk_mb: int
    """Free room where runs have their folders, when the worker started."""

    def has_gpu(self, asked: str) -> bool:
        """Tell whether the GPUs are of a type, which people spell with and without its maker, dashes and capitals."""
        return self.gpu_type is not None and _plain(asked) in _plain(self.gpu_type)


def measure(name: str, *, cpus: int, gpus: int, gpu_type: str | None, scratch: Path) -> Capacity:
    return Capacity(
        name=name,
        cpus=cpus,
        gpus=gpus,
        gpu_type=gpu_type,
        memory_mb=_memory_bytes() // _MIB,
        disk_mb=shutil.disk_usage(scratch).free // _MIB,
    )


async def announce(capacity: Capacity) -> None:
    """Let the facade know it; a worker that starts again replaces what it said before."""
    key = hashlib.sha256(capacity.name.encode()).hexdigest()[:16]
    await Variable.aset(f"{PREFIX}{key}", capacity.model_dump(), overwrite=True)


def parse(variables: Iterable[Mapping[str, Any]]) -> list[Capacity]:
    """Return what Prefect's variables tell of workers; others may have been made by anybody."""
    found = []
    for variable in variables:
        try:
            found.append(Capacity.model_validate(variable.get("value")))
        except ValidationError:
            continue
    return found


def _memory_bytes() -> int:
    """Return the memory of this machine, or of this container."""
    total = int(psutil.virtual_memory().total)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(file).read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return total


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia")

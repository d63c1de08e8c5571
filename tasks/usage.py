"""What a command uses while it runs: its own processes, the network of its machine, its GPUs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import psutil
import pynvml
from prefect.logging import get_logger

logger = get_logger("trainyard.usage")

#: Seconds between two samples, unless the environment says otherwise.
INTERVAL_VARIABLE = "TRAINYARD_USAGE_INTERVAL_S"
INTERVAL_S = 5.0
#: The first samples come sooner, for commands that take no longer.
_FIRST_S = 0.5

_MIB = float(2**20)


@dataclass(frozen=True, slots=True)
class _Counters:
    """What only grows: differences between two of these are rates."""

    at: float
    cpu_s: Mapping[int, float]
    disk_bytes: Mapping[int, int]
    network_bytes: int


class UsageMeter:
    """Measures a tree of processes; each sample is about the time since the one before.

    `cpu` is in per cent of one core, `memory` and `gpu_memory` in MiB, `network` and `disk` in bytes a second,
    `gpu_utilization` in per cent of all GPUs of the run. `network` is that of the machine or container: the kernel
    keeps no account of it by process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._count(self._tree())

    def sample(self) -> dict[str, float]:
        tree = self._tree()
        before, now = self._before, self._count(tree)
        self._before = now
        seconds = max(now.at - before.at, 1e-3)
        cpu_s = sum(used - before.cpu_s.get(pid, 0.0) for pid, used in now.cpu_s.items())
        disk = sum(moved - before.disk_bytes.get(pid, 0) for pid, moved in now.disk_bytes.items())
        return {
            "cpu": round(100 * max(cpu_s, 0.0) / seconds, 2),
            "memory": round(_memory(tree) / _MIB, 2),
            "network": round(max(now.network_bytes - before.network_bytes, 0) / seconds, 1),
            "disk": round(max(disk, 0) / seconds, 1),
            **_gpus(),
        }

    def _tree(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _count(self, tree: list[psutil.Process]) -> _Counters:
        cpu_s: dict[int, float] = {}
        disk_bytes: dict[int, int] = {}
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                cpu_s[process.pid] = times.user + times.system
                moved = process.io_counters()
                disk_bytes[process.pid] = moved.read_bytes + moved.write_bytes
        network = psutil.net_io_counters()
        return _Counters(
            at=time.monotonic(),
            cpu_s=cpu_s,
            disk_bytes=disk_bytes,
            network_bytes=network.bytes_sent + network.bytes_recv if network is not None else 0,
        )


@contextmanager
def metered(read_pid: Callable[[], int | None], take: Callable[[dict[str, float]], None]) -> Iterator[None]:
    """Give samples to `take` from a thread for as long as the block takes and `read_pid` names a process."""
    over = threading.Event()

    def measure() -> None:
        meter: UsageMeter | None = None
        pid: int | None = None
        interval_s = float(os.environ.get(INTERVAL_VARIABLE, INTERVAL_S))
        pause_s = min(_FIRST_S, interval_s)
        while not over.wait(pause_s):
            if (now := read_pid()) is None:
                meter = None
            elif meter is None or now != pid:
                meter, pid = UsageMeter(now), now
            else:
                pause_s = min(2 * pause_s, interval_s)
                try:
                    take(meter.sample())
                except (psutil.Error, OSError) as error:
                    logger.debug("What the command uses could not be measured: %s", error)

    thread = threading.Thread(target=measure, name="trainyard-usage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _memory(tree: list[psutil.Process]) -> float:
    """Return the memory of processes; pages that they share count once."""
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return float(total)


def _gpus() -> dict[str, float]:
    """Return utilization and memory of the GPUs of this run; nothing where there is none."""
    utilization, memory = [], 0.0
    for handle in _gpu_handles(os.environ.get("CUDA_VISIBLE_DEVICES", "")):
        try:
            utilization.append(float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            memory += pynvml.nvmlDeviceGetMemoryInfo(handle).used / _MIB
        except pynvml.NVMLError as error:
            logger.debug("A GPU does not tell what it does: %s", error)
    if not utilization:
        return {}
    return {"gpu_utilization": round(sum(utilization) / len(utilization), 2), "gpu_memory": round(memory, 2)}


@cache
def _gpu_handles(visible: str) -> tuple[object, ...]:
    """Return the driver's handles of the GPUs that `CUDA_VISIBLE_DEVICES` names; none without a driver."""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    if not names:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    handles = []
    for name in names:
        with contextlib.suppress(pynvml.NVMLError):
            if name.isdigit():
                handles.append(pynvml.nvmlDeviceGetHandleByIndex(int(name)))
            else:
                handles.append(pynvml.nvmlDeviceGetHandleByUUID(name.encode()))
    return tuple(handles)

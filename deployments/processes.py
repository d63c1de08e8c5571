"""Names of processes that outlive them, and what the processes of a run have left behind on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

#: Environment variable of everything that a worker starts: the name of the worker's process.
OWNER_VARIABLE = "TRAINYARD_OWNER"

_FORKSERVER = b"prefect_trainyard.deployments.forkserver"


def this_machine() -> str:
    """Return a name for this machine until its next boot."""
    # Containers share the boot id of their host but not its process ids.
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def this_process(machine: str) -> str:
    """Return a name for this process that no other one ever has."""
    return f"{machine} {_process(os.getpid())}"


def is_on(machine: str, owner: str) -> bool:
    """Tell whether the process of that name is, or was, one of this machine."""
    return owner.rpartition(" ")[0] == machine


def is_gone(owner: str) -> bool:
    """Tell whether a process of this machine has ended."""
    process = owner.rpartition(" ")[2]
    pid = process.partition(":")[0]
    try:
        return not pid.isdigit() or process != _process(int(pid))
    except (FileNotFoundError, ProcessLookupError):
        return True


def leftovers(owner: str) -> list[int]:
    """Return the processes of this machine that a worker process has started, directly or not."""
    mark = f"{OWNER_VARIABLE}={owner}\0".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # Those of other users cannot be read, and are not ours.
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def is_forkserver_among(pids: list[int]) -> bool:
    """Tell whether one of these processes is a forkserver, which ends its runs by itself when its worker dies."""
    for pid in pids:
        with contextlib.suppress(OSError):
            # What a run has forked has the same command line, but leads no session.
            if os.getsid(pid) == pid and _FORKSERVER in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
    return False


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def oom_kills() -> int:
    """Return how many processes of our control group the kernel has killed for want of memory; 0 if it does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                events = Path(f"/sys/fs/cgroup{path}/memory.events")
                if not events.exists():  # a container sees its own group as the root
                    events = Path("/sys/fs/cgroup/memory.events")
            elif "memory" in controllers.split(","):
                events = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
                if not events.exists():
                    events = Path("/sys/fs/cgroup/memory/memory.oom_control")
            else:
                continue
            if events.exists():
                fields = dict(row.split() for row in events.read_text().splitlines())
                return int(fields.get("oom_kill", 0))
    return 0


def _process(pid: int) -> str:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(pid)
    return f"{pid}:{fields[19]}"

"""Looks at all processes and logs of a yard many times a second while it is being hurt."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

EVERY_S = 0.05
LOGS_EVERY_S = 0.5
#: A forked process is told by the folder that it goes to, which takes it a moment.
_SETTLE_S = 3.0
#: Flag of a process that the kernel is taking apart; it runs no code of ours any more.
_PF_EXITING = 0x4
_SIGKILL_BIT = 1 << 8
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
EOF_LINES = ("Done EOF", "Error EOF")


@dataclass(frozen=True, slots=True)
class Found:
    """A process of a job. Two processes with one pid differ in their start."""

    pid: int
    start: int
    leader: bool


@dataclass
class Sighting:
    first: float
    last: float
    run_id: str | None = None


@dataclass
class Watch:
    """A thread that notes double runs and logs that lose lines."""

    scratch: Path
    """Folder below which each run has its working folder, named by the flow run id."""
    violations: list[tuple[str, str, str]] = field(default_factory=list)
    looks: int = 0
    longest_gap_s: float = 0.0

    def __post_init__(self) -> None:
        self._seen: dict[tuple[int, int], Sighting] = {}
        self._running: dict[str, set[Found]] = {}
        self._logs: dict[Path, str] = {}
        self._shrunk: set[Path] = set()
        self._doubled: set[frozenset[Found]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def running(self) -> dict[str, set[Found]]:
        """Return the processes of each job as of the last look."""
        return dict(self._running)

    def leader(self, run_id: str) -> Found | None:
        return next((f for f in self._running.get(run_id, ()) if f.leader), None)

    def follow(self, log: Path) -> None:
        """Watch a log from now on."""
        self._logs.setdefault(log, "")

    def _run(self) -> None:
        last, logs_at = time.monotonic(), 0.0
        while not self._stop.wait(EVERY_S):
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - last)
            last = now
            self._look_at_processes(now)
            if now - logs_at > LOGS_EVERY_S:
                logs_at = now
                for log in list(self._logs):
                    self._look_at_log(log)
            self.looks += 1

    def _look_at_processes(self, now: float) -> None:
        running: dict[str, set[Found]] = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or (stat := _stat(name)) is None:
                continue
            pid, start, leader = int(name), int(stat[19]), stat[2] == stat[3] == name
            seen = self._seen.setdefault((pid, start), Sighting(now, now))
            if seen.run_id is None and now - seen.first < _SETTLE_S:
                seen.run_id = self._run_of(name)
            if seen.run_id is not None:
                seen.last = now
                running.setdefault(seen.run_id, set()).add(Found(pid, start, leader))
        self._running = running
        for run_id, found in running.items():
            leaders = frozenset(f for f in found if f.leader)
            # Looking takes milliseconds, so one may have ended before the other began.
            if len(leaders) > 1 and leaders not in self._doubled and all(_runs(f) for f in leaders):
                self._doubled.add(leaders)
                what = ", ".join(f"process {f.pid} (start {f.start})" for f in leaders)
                self.violations.append(("double run", run_id, f"at {time.strftime('%H:%M:%S')}: {what}"))

    def _run_of(self, pid: str) -> str | None:
        """Return the job that a process works for: forked ones by their folder, others by their environment."""
        try:
            cwd = os.readlink(f"/proc/{pid}/cwd")
            if cwd.startswith(f"{self.scratch}/") and (named := _UUID.search(cwd)):
                return named.group()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return None
        if f"TRAINYARD_HOME={self.scratch.parent}\0".encode() not in environment:
            return None
        _, found, rest = environment.partition(b"PREFECT__FLOW_RUN_ID=")
        return rest[:36].decode() if found else None

    def _look_at_log(self, log: Path) -> None:
        try:
            text = log.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        before, now = _without_end(self._logs[log]), _without_end(text)
        if not now.startswith(before) and log not in self._shrunk:
            self._shrunk.add(log)
            same = next((i for i, (a, b) in enumerate(zip(before, now, strict=False)) if a != b), len(now))
            lost = before[same:][:200]
            self.violations.append(("lost log lines", log.stem, f"the log does not go on from {lost!r}"))
        self._logs[log] = text


def _stat(pid: str) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None for what is dead or dying."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" or int(fields[6]) & _PF_EXITING else fields


def _runs(found: Found) -> bool:
    """Tell whether a process is still there and not killed already."""
    fields = _stat(str(found.pid))
    if fields is None or int(fields[19]) != found.start:
        return False
    try:
        status = Path(f"/proc/{found.pid}/status").read_text()
    except OSError:
        return False
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(mask & _SIGKILL_BIT for mask in pending)


def _without_end(text: str) -> str:
    """Return a log without its last lines that a job which goes on takes back."""
    return "".join(line for line in text.splitlines(keepends=True) if line.rstrip("\n") not in EOF_LINES)

"""The home folder of a yard: its lock, and the record of the processes that run."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from ..schemas.errors import Conflict

STATE_FILE = "yard.json"
LOCK_FILE = "yard.lock"


@dataclass(slots=True, kw_only=True)
class ProcessRecord:
    """A process, told apart from a later one with the same pid by its start time."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        return cls(pid=pid, created=psutil.Process(pid).create_time())

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        try:
            process = psutil.Process(self.pid)
            alive = process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


@dataclass(slots=True, kw_only=True)
class YardState:
    """What `up` writes down for `status` and `down`, and for the next `up` after a crash."""

    supervisor: ProcessRecord
    api_url: str
    prefect_url: str
    mlflow_url: str
    parts: dict[str, ProcessRecord] = field(default_factory=dict)
    ready: bool = False


class Home:
    """Paths and state in one home folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def logs(self) -> Path:
        return self.path / "logs" / "parts"

    @property
    def run(self) -> Path:
        return self.path / "run"

    def create(self) -> None:
        """Make the folder, readable by its owner only: it holds keys and everybody's data."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.logs, self.run, self.path / "work"):
            folder.mkdir(parents=True, exist_ok=True)

    def lock(self) -> int:
        """Return a handle that holds the lock of this home until the process ends.

        The kernel drops the lock when its holder dies, however it dies: a killed yard leaves
        no stale lock behind.

        Raises:
            Conflict: a yard is up in this home.
        """
        handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise already_up(self) from error
        return handle

    def is_locked(self) -> bool:
        """Return whether a yard is up in this home."""
        if not (self.path / LOCK_FILE).exists():
            return False
        handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def write_state(self, state: YardState) -> None:
        file = self.run / STATE_FILE
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(state), indent=1))
        temporary.replace(file)

    def read_state(self) -> YardState | None:
        """Return what the last `up` wrote, None when there was none."""
        try:
            raw = json.loads((self.run / STATE_FILE).read_text())
        except FileNotFoundError:
            return None
        return YardState(
            **{
                **raw,
                "supervisor": ProcessRecord(**raw["supervisor"]),
                "parts": {name: ProcessRecord(**record) for name, record in raw["parts"].items()},
            }
        )


def already_up(home: Home) -> Conflict:
    state = home.read_state()
    where = f" at {state.api_url}" if state else ""
    return Conflict(
        f"A yard is already up in {home.path}{where}.",
        hint="Use it, stop it with `trainyard down`, or give another --home.",
    )


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

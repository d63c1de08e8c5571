"""Run a command of a user: in a process group of its own, within limits, with a clean environment.

It keeps commands out of each other's way and, where the kernel can, from files that are none of their business. It is
not all that a security boundary takes: a command has the network, that of this machine included. See docs/trainwave.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import venv as venvs
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from ..schemas.commands import KILLED_COMMAND
from ..schemas.errors import JobFailed

_INIT = Path(__file__).with_name("sandbox_init.py")

#: What the environment of every command has, whatever else it is given.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: By these a worker knows what its runs have started, and tells them which GPUs are theirs. None is a secret.
_KEPT = ("TRAINYARD_OWNER", "PREFECT__FLOW_RUN_ID", "CUDA_VISIBLE_DEVICES")

#: What commands read of a system: programs, libraries, settings, what the kernel tells. Not homes, not /tmp, not /var.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/proc", "/sys"),
    # Where /etc/resolv.conf may lead, and what the NVIDIA driver asks.
    *("/run/systemd/resolve", "/run/resolvconf", "/run/nvidia-persistenced"),
)
#: Environment variable of a worker with more folders that all commands may read, such as shared data; `:` between.
READABLE_VARIABLE = "TRAINYARD_COMMANDS_MAY_READ"
_CREATE_RULESET = 444

#: A line of more bytes comes in pieces.
_LINE_BYTES = 1 << 16
_READ_BYTES = 1 << 16

#: Seconds between two looks at what the command uses.
_LOOK_S = 1.0
#: A look at the size of the folder may take this share of the time.
_DISK_SHARE = 0.02

#: Seconds from SIGUSR1 to SIGKILL for the first process, which has nothing to do but to kill.
_KILL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """What a command may use; None is no limit."""

    memory_bytes: int | None = None
    """Of all its processes together, and of each by the kernel."""
    cpus: int | None = None
    """Threads that libraries start by themselves; no process is kept off a core."""
    file_bytes: int | None = None
    """Size of one file."""
    processes: int | None = None
    """Processes of the command at a time."""
    folder_bytes: int | None = None
    """Size of the folder of the sandbox."""


class Sandbox:
    """A folder in which commands run, one at a time.

    `environment` is added to the clean one. `on_line` gets each line of output, in the thread that calls `run`, after
    `redact` has taken the secrets out of it. With `shared`, commands reach the files of the system, of the sandbox and
    of these folders, and no others; see `can_confine`. `readable` are folders that they may only read.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        limits: SandboxLimits,
        on_line: Callable[[str], None],
        redact: Callable[[str], str] = str,
        *,
        venv: Path | None = None,
        shared: Sequence[Path] | None = None,
        readable: Sequence[Path] = (),
    ) -> None:
        self.folder = folder
        self.venv = venv or folder / ".venv"
        self.pid: int | None = None
        """The first process of the command that runs; all others descend from it."""
        self._environment = dict(environment)
        self._limits = limits
        self._on_line = on_line
        self._redact = redact
        self._shared = shared
        self._readable = readable
        self._excess: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a command sees."""
        has_venv = (self.venv / "bin" / "python").exists()
        threads = str(self._limits.cpus) if self._limits.cpus is not None else None
        return {
            "PATH": f"{self.venv}/bin:{_PATH}" if has_venv else _PATH,
            "HOME": str(self.folder / ".home"),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.folder / ".tmp"),
            **({"VIRTUAL_ENV": str(self.venv)} if has_venv else {}),
            **(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads) if threads else {}),
            **self._environment,
            **{name: os.environ[name] for name in _KEPT if name in os.environ},
        }

    def prepare_venv(self, requirements: Path | None = None, *, shares_packages: bool = True) -> None:
        """Make the virtual environment that later commands use, and install `requirements` into it.

        With `shares_packages` it also finds what is installed for the worker, torch above all; its own come first.

        Raises:
            JobFailed: the requirements cannot be installed.
        """
        has_pip = shares_packages and find_spec("pip") is not None
        # pip of the worker does, where it can be seen: to install another one takes four seconds.
        venvs.EnvBuilder(symlinks=True, clear=True, with_pip=not has_pip).create(self.venv)
        if shares_packages:
            own = Path(sysconfig.get_path("purelib", vars={"base": str(self.venv), "platbase": str(self.venv)}))
            shared = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
            (own / "worker.pth").write_text("".join(f"{path}\n" for path in shared))
        if has_pip:
            for name in ("pip", "pip3"):
                script = self.venv / "bin" / name
                script.write_text(f'#!/bin/sh\nexec "{self.venv}/bin/python" -m pip "$@"\n')
                script.chmod(0o755)
        if requirements is None:
            return
        install = ["python", "-m", "pip", "install", "--disable-pip-version-check", "--requirement", str(requirements)]
        if (status := self.run(install, grace_s=1.0)) != 0:
            raise JobFailed(
                f"pip could not install {requirements.name}: it ended with exit code {status}.",
                hint="The log says which of the requirements it was.",
            )

    def run(self, argv: Sequence[str], *, grace_s: float) -> int:
        """Run a command in the folder and return its exit code, negative for a signal; nothing of it is left then.

        An exception that comes in meanwhile, such as that of a SIGTERM, sends SIGTERM to the command, and SIGKILL to
        all of it after `grace_s`.
        """
        self._excess = None
        process = self._start(argv)
        self.pid = process.pid
        lines = _Lines(process, self._say)
        try:
            with self._watched(process):
                lines.read()
                status = process.wait()
        except BaseException:
            _signal(process, signal.SIGTERM)
            lines.read(time.monotonic() + grace_s)
            raise
        finally:
            self._kill(process)
            lines.read(time.monotonic() + _KILL_S)
            lines.close()
            self.pid = None
        if self._excess is not None:
            self._say(self._excess)
        return status

    @property
    def excess(self) -> str | None:
        """Why the last command was killed, when it was for using too much."""
        return self._excess

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        environment = self.environment
        for folder in (environment["HOME"], environment["TMPDIR"]):
            Path(folder).mkdir(parents=True, exist_ok=True)
        limits = asdict(self._limits)
        if (processes := limits["processes"]) is not None:
            # why: the kernel counts all processes and threads of the user, whoever has started them.
            limits["processes"] = _threads_of_user() + processes
        order = {
            "argv": list(argv),
            "environment": environment,
            "cwd": str(self.folder),
            "limits": limits,
            "files": self._files(environment),
            "closed_ports": _inner_ports(),
            "parent": os.getpid(),
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_INIT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # The markers alone; the rest of the environment is for the command, and goes where nobody else reads it.
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            start_new_session=True,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(order).encode())
        return process

    def _files(self, environment: Mapping[str, str]) -> dict[str, list[str]] | None:
        """Return what a command may reach, by what it may do there; None for everything."""
        if self._shared is None:
            return None
        own = [self.folder, self.venv, *self._shared, environment["HOME"], environment["TMPDIR"], "/dev/shm"]  # noqa: S108
        worker = [sys.prefix, sys.base_prefix, *os.environ.get(READABLE_VARIABLE, "").split(os.pathsep)]
        return {
            "read": [*_SYSTEM, *(path for path in worker if path), *map(str, self._readable)],
            "use": ["/dev"],
            "write": [str(path) for path in own],
        }

    def _say(self, line: str) -> None:
        self._on_line(self._redact(line))

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """End whatever is left, by the hand of the first process, which knows all others."""
        if process.poll() is not None:
            return
        _signal(process, signal.SIGUSR1)
        try:
            process.wait(_KILL_S)
        except subprocess.TimeoutExpired:
            for pid in [child.pid for child in _descendants(process.pid)] + [process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def _watched(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Kill the command inside the block when all of it together uses more than it may."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(process, over), name="trainyard-sandbox", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, process: subprocess.Popen[bytes], over: threading.Event) -> None:
        disk_at = time.monotonic()
        while not over.wait(_LOOK_S):
            excess = _excess(process.pid, self._limits)
            if excess is None and self._limits.folder_bytes is not None and time.monotonic() >= disk_at:
                began = time.monotonic()
                excess = _excess_of_folder(self.folder, self._limits.folder_bytes)
                disk_at = time.monotonic() + (time.monotonic() - began) / _DISK_SHARE
            if excess is not None:
                self._excess = f"{KILLED_COMMAND} {excess}"
                _signal(process, signal.SIGUSR1)
                return


def _inner_ports() -> list[int]:
    """Return the ports of the servers that only the facade and workers talk to: they ask nobody who he is."""
    found = []
    for variable in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        address = urlsplit(os.environ.get(variable, ""))
        if address.scheme in ("http", "https"):
            found.append(address.port or {"http": 80, "https": 443}[address.scheme])
    # A server elsewhere on a port of the whole web cannot be closed without closing that.
    return [port for port in found if port not in (80, 443)]


def can_confine() -> bool:
    """Tell whether the kernel of this machine keeps commands from files that are none of their business."""
    return int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, 1)) >= 1


class _Lines:
    """The output of a process, line by line."""

    def __init__(self, process: subprocess.Popen[bytes], on_line: Callable[[str], None]) -> None:
        assert process.stdout is not None
        self._pipe = process.stdout
        self._on_line = on_line
        self._rest = b""
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ)

    def read(self, until: float | None = None) -> None:
        """Give on lines until the output ends, or until a moment of the monotonic clock."""
        while not self._ended:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return
            if not self._selector.select(left):
                return
            chunk = os.read(self._pipe.fileno(), _READ_BYTES)
            if not chunk:
                self._ended = True
                chunk = b"\n" if self._rest else b""
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if len(self._rest) > _LINE_BYTES:
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                self._on_line(_shown(line))

    def close(self) -> None:
        self._selector.close()
        self._pipe.close()


def _shown(line: bytes) -> str:
    """Return what a terminal would show of a line in the end: progress bars write over themselves."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2]
    return text.decode(errors="replace")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _excess(pid: int, limits: SandboxLimits) -> str | None:
    """Return what a tree of processes has too much of."""
    tree = _descendants(pid)
    if limits.processes is not None and len(tree) > limits.processes:
        return f"it had {len(tree)} processes, and may have {limits.processes}."
    if limits.memory_bytes is None or _memory(tree, "rss") <= limits.memory_bytes:
        return None
    # What processes share counts once, which takes the kernel longer to say.
    if (used := _memory(tree, "pss")) > limits.memory_bytes:
        return f"it used {_mib(used)} of memory, and may use {_mib(limits.memory_bytes)}."
    return None


def _memory(tree: Sequence[psutil.Process], kind: str) -> int:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = process.memory_info() if kind == "rss" else process.memory_full_info()
            total += int(getattr(info, kind))
    return total


def _excess_of_folder(folder: Path, most: int) -> str | None:
    used = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                used += Path(parent, name).lstat().st_blocks * 512
    return f"its folder held {_mib(used)}, and may hold {_mib(most)}." if used > most else None


def _threads_of_user() -> int:
    me, threads = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        threads += process.info["num_threads"] or 0 if uids is not None and uids.real == me else 0
    return threads


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"

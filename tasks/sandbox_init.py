"""The first process inside a sandbox: it sets the limits, runs the command and leaves nothing of it alive.

`sandbox.py` starts this file as a script, alone in its session, and tells it what to do on its standard input. It
imports nothing of ours and of no package, so it costs 20 ms. SIGTERM is passed on to the command, SIGUSR1 kills all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import stat
import struct
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38

#: The command goes before the worker when memory runs out.
_OOM_SCORE = "500"

_NOT_FOUND, _NOT_STARTED = 127, 126

_LIMITS = {
    # Private memory that is written to. RLIMIT_AS would count what CUDA only reserves, hundreds of GiB.
    "memory_bytes": resource.RLIMIT_DATA,
    "file_bytes": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
}

#: System calls of Landlock, the same numbers on all machines.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
#: Its kinds of access, with the version that brought them: up to making links, moving, truncating, device control.
_ACCESSES = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_EVERYTHING = (1 << 16) - 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | 1 << 14 | 1 << 15
_KINDS = {
    "read": _EXECUTE | _READ_FILE | _READ_FOLDER,
    "use": _READ_FILE | _READ_FOLDER | _WRITE_FILE | 1 << 14 | 1 << 15,
    "write": _EVERYTHING,
}
_CONNECT = 2
#: Neither signals nor abstract sockets lead out, from version 6 on.
_NO_SIGNALS = 3

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    order: dict[str, Any] = json.load(sys.stdin)
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    # From now on nothing of the command outlives the one who asked for it, not even when that one is killed.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() != order["parent"]:
        return
    command = os.fork()
    if command == 0:
        _become_command(order)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(command, command)

    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command, number)

    def kill_all(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command, signal.SIGKILL)
        _kill_descendants()
        _end(-signal.SIGKILL)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGUSR1, kill_all)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == command:
            break
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    _kill_descendants()
    _end(os.waitstatus_to_exitcode(status))


def _become_command(order: dict[str, Any]) -> None:
    """Replace this process by the command, within its limits."""
    try:
        os.setpgid(0, 0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for name, kind in _LIMITS.items():
            _limit(kind, order["limits"].get(name))
        if order["files"] is not None:
            _confine(order["files"], order["closed_ports"])
        os.chdir(order["cwd"])
        os.execvpe(order["argv"][0], order["argv"], order["environment"])  # noqa: S606 - that is what this is for
    except FileNotFoundError:
        _say(f"{order['argv'][0]}: command not found")
        os._exit(_NOT_FOUND)
    except (OSError, ValueError) as error:
        _say(f"The command was not started: {error}")
        os._exit(_NOT_STARTED)


def _confine(files: dict[str, list[str]], closed_ports: list[int]) -> None:
    """Let this process and all that it starts reach these files only, nobody's memory and, where it can, no signals.

    Nor do they reach TCP ports that are closed to them, wherever these are: the servers behind the facade.

    Landlock of the kernel, which needs no rights. An old kernel knows less of it, or nothing.
    """
    version = _libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    known = sum(access for since, access in _ACCESSES if since <= version)
    closes = version >= 4 and bool(closed_ports)
    ruleset = struct.pack("=QQQ", known, _CONNECT if closes else 0, _NO_SIGNALS if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    handle = _libc.syscall(_CREATE_RULESET, ruleset, size, 0)
    if handle < 0:
        raise OSError(ctypes.get_errno(), "the kernel does not confine it")
    for kind, paths in files.items():
        for path in paths:
            _allow(handle, path, _KINDS[kind] & known)
    if closes:
        # why all the others: there are only rules that open.
        rule = (ctypes.c_uint64 * 2)(_CONNECT, 0)
        add, place = _libc.syscall, ctypes.byref(rule)
        for port in range(1 << 16):
            rule[1] = port
            if port not in closed_ports and add(_ADD_RULE, handle, 2, place, 0) != 0:
                raise OSError(ctypes.get_errno(), f"the kernel does not open port {port}")
    if _libc.syscall(_RESTRICT_SELF, handle, 0) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not confine it")
    os.close(handle)
    # The rights of a superuser lead around it: they are gone with the next program. Others have none to lose.
    for right in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, right, 0, 0, 0)


def _allow(handle: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there cannot be reached
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, place)
        if _libc.syscall(_ADD_RULE, handle, 1, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"the kernel does not open {path}")
    finally:
        os.close(place)


def _limit(kind: int, value: int | None) -> None:
    if value is not None:
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))


def _say(text: str) -> None:
    os.write(2, f"{text}\n".encode())


def _kill_descendants() -> None:
    """Kill children until there are none: those of a killed one become ours."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in map(int, children):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _end(status: int) -> None:
    """End as the command did."""
    if status < 0:
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler to set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        status = 128 - status
    os._exit(status)


if __name__ == "__main__":
    main()

"""Training by several processes on this machine, one per GPU.

The job's own process starts the ranks as fresh interpreters, relays what the first one reports and
ends them all when one fails, when it is itself told to end, or, by their open standard input, when
it is killed. So a training never waits for a rank that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from ..schemas import errors
from ..schemas.reporting import Reporter
from .ranks import Ranks

_POLL_S = 0.2
_GRACE_S = 10.0


def launch(target: str, arguments: Mapping[str, Any], world: int, reporter: Reporter) -> dict[str, Any]:
    """Run `target`, a `module:function`, in `world` processes and return what the first one returned.

    The function takes `arguments` (plain JSON), the reporter and the `Ranks`, and returns plain JSON.

    Raises:
        YardError: what a rank raised, or JobFailed when one died.
    """
    with tempfile.TemporaryDirectory(prefix="trainyard-ranks-") as folder, contextlib.ExitStack() as stack:
        reports, sink = os.pipe()
        stack.callback(os.close, reports)
        ranks: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, ranks)
        try:
            for rank in range(world):
                request = {
                    "target": target,
                    "arguments": dict(arguments),
                    "rank": rank,
                    "world": world,
                    "rendezvous": f"file://{folder}/rendezvous",
                    "reports": sink,
                }
                process = subprocess.Popen(
                    # why -P: the working folder may hold a `datasets` that is not the one meant.
                    [sys.executable, "-P", "-c", f"from {__name__} import main; main()"],
                    stdin=subprocess.PIPE,
                    pass_fds=[sink],
                )
                ranks.append(process)
                assert process.stdin is not None
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
        finally:
            os.close(sink)
        return _relay(reports, ranks, reporter)


def _relay(reports: int, ranks: Sequence[subprocess.Popen[bytes]], reporter: Reporter) -> dict[str, Any]:
    told_to_stop = False
    dead: errors.JobFailed | None = None
    for line in _lines(reports):
        if line:
            message = json.loads(line)
            match message["kind"]:
                case "result":
                    return dict(message["value"])
                case "error":
                    raise _as_error(message)
                case kind:
                    values = message["values"]
                    if kind == "saved":
                        values = [[Path(path) for path in values[0]]]
                    getattr(reporter, kind)(*values)
        if not told_to_stop and reporter.stop_requested():
            told_to_stop = True
            first = ranks[0].stdin
            assert first is not None
            with contextlib.suppress(BrokenPipeError):
                first.write(b"stop\n")
                first.flush()
        if dead is not None and not line:
            # why: not before the pipe is empty, since the process may have said what was wrong.
            raise dead
        dead = dead or _dead(ranks)
    for process in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
    raise dead or _dead(ranks) or errors.JobFailed("The training processes ended without a result.")


def _dead(ranks: Sequence[subprocess.Popen[bytes]]) -> errors.JobFailed | None:
    # why: signals are negative codes and come first: the other processes fail only because that one is gone.
    for number, process in sorted(enumerate(ranks), key=lambda rank: rank[1].poll() or 0):
        if process.returncode:
            return errors.JobFailed(
                f"Training process {number} of {len(ranks)} ended with exit code {process.returncode}.",
                hint="A negative code is the signal that killed it: -9 is most often a lack of memory.",
            )
    return None


def _lines(reports: int) -> Iterator[bytes]:
    """Yield whole lines, and an empty one every `_POLL_S` seconds, until all writers are gone."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reports, selectors.EVENT_READ)
        while True:
            if not selector.select(_POLL_S):
                yield b""
                continue
            chunk = os.read(reports, 65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in ranks:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    for process in ranks:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _as_error(message: Mapping[str, str]) -> errors.YardError:
    kind = getattr(errors, message["type"], errors.JobFailed)
    return kind(message["message"], hint=message["hint"])


class _PipeReporter:
    """The reporter of a rank: the first one writes to the job's process, the others keep still."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._stop = threading.Event()

    def request_stop(self) -> None:
        self._stop.set()

    def send(self, **message: Any) -> None:
        if self._descriptor is not None:
            _write_all(self._descriptor, json.dumps(message).encode() + b"\n")

    def log(self, message: str) -> None:
        self.send(kind="log", values=[message])

    def progress(self, fraction: float, message: str) -> None:
        self.send(kind="progress", values=[fraction, message])

    def epoch(self, epoch: int, max_epoch: int, metrics: Mapping[str, float], seconds: float) -> None:
        self.send(kind="epoch", values=[epoch, max_epoch, dict(metrics), seconds])

    def saved(self, paths: Sequence[Path]) -> None:
        self.send(kind="saved", values=[[str(path) for path in paths]])

    def stop_requested(self) -> bool:
        return self._stop.is_set()

    def allow_interruption(self) -> None:
        """Do nothing: only the job's own process hears of a stop, and it ends the ranks when it is interrupted."""


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def main() -> None:
    """Be one rank: the body of the processes that `launch` starts."""
    request = json.loads(sys.stdin.buffer.readline())
    rank, world, sink = request["rank"], request["world"], request["reports"]
    reporter = _PipeReporter(sink if rank == 0 else None)
    threading.Thread(target=_follow_parent, args=(reporter,), daemon=True).start()
    try:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(rank)
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // world))
        distributed.init_process_group(
            "nccl" if cuda else "gloo", init_method=request["rendezvous"], rank=rank, world_size=world
        )
        module, _, function = request["target"].partition(":")
        control = distributed.new_group(backend="gloo")
        assert isinstance(control, distributed.ProcessGroup)
        ranks = Ranks(rank, world, control)
        value = getattr(import_module(module), function)(request["arguments"], reporter, ranks)
        reporter.send(kind="result", value=value)
        distributed.destroy_process_group()
    except errors.YardError as error:
        # why: whichever rank fails first must be heard, and only the first one reports otherwise.
        _PipeReporter(sink).send(kind="error", type=type(error).__name__, message=error.message, hint=error.hint)
        os._exit(1)
    except Exception:  # noqa: BLE001 why: the last stop before the process ends; the parent reports the exit code
        traceback.print_exc()
        sys.stderr.flush()
        # why: the ordinary exit would wait for the other ranks in the destructor of the process group.
        os._exit(1)


def _follow_parent(reporter: _PipeReporter) -> None:
    for line in sys.stdin.buffer:
        if line.strip() == b"stop":
            reporter.request_stop()
    # why: standard input ends when the job's process does, however it ended.
    os._exit(1)

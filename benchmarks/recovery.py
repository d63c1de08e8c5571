"""How long it takes until a job goes on, or is gone: after its parent's end, a kill, a cancel, a pause, a resume.

One yard with two workers and real trainings; the stock process worker with its best settings beside it where it has
such a thing at all:

    python benchmarks/recovery.py [--repeats 20] [--only NAME,...] [--json FILE]

The clock of "runs again" stops at the first training step that is done, in a process that goes on from the checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect_trainyard.deployments.environment import mlflow_environment, prefect_environment
from rich.console import Console
from rich.table import Table
from start_latency import rivals, running, until

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from faults.traffic import Job, Traffic
from faults.watch import Found, Watch
from faults.yard import FaultyYard

FLOWS = Path(__file__).with_name("flows.py")
LOOK_S = 0.002
#: A training that nobody waits for to end.
ENDLESS = 5000
#: Workers of other machines that are lost at a time; each needs a GiB.
MACHINES = 2


class Bench:
    """One yard, and the jobs that are hurt in it."""

    def __init__(self, yard: FaultyYard, traffic: Traffic, watch: Watch, repeats: int) -> None:
        self.yard, self.traffic, self.watch, self.repeats = yard, traffic, watch, repeats
        self.environment = {
            **prefect_environment(yard.home / "prefect", _port(yard.prefect_url)),
            **mlflow_environment(_port(yard.mlflow_url)),
            "TRAINYARD_STORAGE_URL": f"file://{yard.home}/storage",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    # --- ours

    def child_after_parent(self) -> list[float]:
        """Parent's state Completed -> its child's state Running."""
        seconds = []
        for _ in range(self.repeats):
            parent = self._train(1)
            child = self.traffic.submit("evaluate", parent)
            self._end(child)
            started = self.yard.states([child.id])[child.id]["start_time"]
            seconds.append(datetime.fromisoformat(started).timestamp() - _at(self._state(parent)))
        return seconds

    def child_killed(self) -> list[float]:
        """SIGKILL of a training process -> it has done a step again."""
        seconds = []
        for _ in range(self.repeats):
            job = self._running()
            leader = self._leader(job)
            start = time.time()
            os.kill(leader.pid, signal.SIGKILL)
            seconds.append(self._step_of_another(job, leader) - start)
            self._cancel(job)
        return seconds

    def worker_killed(self) -> tuple[list[float], list[float]]:
        """SIGKILL of a worker -> the server knows; -> a step is done under the other worker."""
        noticed, again = [], []
        for _ in range(self.repeats):
            self.yard.wait_until_ready()
            job = self._running()
            leader = self._leader(job)
            worker = self._worker_of(leader)
            before = self._state(job)["id"]
            start = time.time()
            os.kill(worker, signal.SIGKILL)
            noticed.append(_at(until(lambda job=job, before=before: self._other_state(job, before), LOOK_S)) - start)
            again.append(self._step_of_another(job, leader) - start)
            self._cancel(job)
        return noticed, again

    def machine_lost(self) -> tuple[list[float], list[float]]:
        """SIGKILL of everything on another machine -> the server knows; -> a step is done on this one."""
        noticed: list[float] = []
        again: list[float] = []
        while len(noticed) < self.repeats:
            self._lose_machines(noticed, again)
        return noticed, again

    def cancel(self) -> list[float]:
        """POST :cancel -> no process of the job is left."""
        return [self._stop("cancel") for _ in range(self.repeats)]

    def pause_and_resume(self) -> tuple[list[float], list[float]]:
        """POST :pause -> no process of the job is left; POST :resume -> a step is done."""
        gone, again = [], []
        job = self._running()
        for _ in range(self.repeats):
            leader = self._leader(job)
            gone.append(self._stop("pause", job))
            until(lambda: self._state(job)["type"] == "PAUSED", 0.05)
            start = time.time()
            assert self.traffic.ask(job, "resume"), job.history
            again.append(self._step_of_another(job, leader) - start)
            time.sleep(random.uniform(0, 0.5))
        self._cancel(job)
        return gone, again

    # --- the rival

    def stock(self) -> dict[str, list[float]]:
        """The process worker with its best settings: cancel, and a child that a script starts when it sees the end."""
        rival = rivals()[-1]
        folder, pool = self.yard.folder / "stock", "stock"
        folder.mkdir()
        cancel, child = [], []
        with SyncPrefectClient(self.environment["PREFECT_API_URL"]) as client:
            made = WorkPoolCreate(name=pool, type="process").model_dump(mode="json")
            client.request("POST", "/work_pools/", json=made)
            deployments = {
                name: client.create_deployment(
                    client.create_flow_from_name(name),
                    pool,
                    entrypoint=f"{FLOWS}:{name.replace('-', '_')}",
                    work_pool_name=pool,
                    job_variables=rival.job_variables,
                    enforce_parameter_schema=False,
                )
                for name in ("first-line", "hold")
            }

            def start(name: str, stamp: Path) -> Any:
                return client.create_flow_run_from_deployment(deployments[name], parameters={"stamp": str(stamp)}).id

            def ended(run_id: Any) -> datetime | None:
                state = client.read_flow_run(run_id).state
                return state.timestamp if state is not None and state.is_final() else None

            with running([*rival.command, pool], self.environment | rival.environment, folder):
                until(lambda: client.request("POST", f"/work_pools/{pool}/workers/filter", json={}).json(), 0.1)
                for number in range(self.repeats):
                    held = folder / f"held-{number}"
                    run_id = start("hold", held)
                    pid = int(until(lambda held=held: held.exists() and held.read_text(), 0.05))
                    begin = time.time()
                    client.request(
                        "POST", f"/flow_runs/{run_id}/set_state", json={"state": {"type": "CANCELLING"}, "force": False}
                    )
                    until(lambda pid=pid: not Path(f"/proc/{pid}/cwd").exists(), LOOK_S)
                    cancel.append(time.time() - begin)
                for number in range(self.repeats):
                    first, second = folder / f"parent-{number}", folder / f"child-{number}"
                    run_id = start("first-line", first)
                    end = until(lambda run_id=run_id: ended(run_id), 0.05)
                    start("first-line", second)
                    line = until(lambda second=second: second.exists() and second.read_text(), LOOK_S)
                    child.append(float(line.split()[0]) - end.timestamp())
        return {"cancel": cancel, "child after parent": child}

    # --- one step each

    def _train(self, epochs: int) -> Job:
        self.traffic.epochs = epochs
        return self.traffic.submit("train", exact=True)

    def _running(self) -> Job:
        """Return a training that has been at it for a moment, at a moment that differs from time to time."""
        job = self._train(ENDLESS)
        until(lambda: self.traffic.epoch(job) >= 1 and self.watch.leader(job.id), 0.05)
        time.sleep(random.uniform(0.5, 1.5))
        return job

    def _leader(self, job: Job) -> Found:
        return until(lambda: self.watch.leader(job.id), LOOK_S)

    def _stop(self, verb: str, job: Job | None = None) -> float:
        job = job or self._running()
        until(lambda: self.watch.leader(job.id), LOOK_S)
        pids = [found.pid for found in self.watch.running()[job.id]]
        start = time.time()
        self.traffic.ask(job, verb)
        until(lambda: not any(Path(f"/proc/{pid}/cwd").exists() for pid in pids), LOOK_S)
        return time.time() - start

    def _cancel(self, job: Job) -> None:
        job.cancelled = True
        self.traffic.ask(job, "cancel")
        self._end(job)

    def _end(self, job: Job) -> None:
        until(lambda: self._state(job)["type"] in ("COMPLETED", "CANCELLED", "FAILED", "CRASHED"), 0.1)
        until(lambda: not self.watch.running().get(job.id), 0.05)

    def _state(self, job: Job) -> dict[str, Any]:
        return dict(self.yard.states([job.id])[job.id]["state"])

    def _other_state(self, job: Job, before: str) -> dict[str, Any] | None:
        state = self._state(job)
        return state if state["id"] != before else None

    def _step_of_another(self, job: Job, former: Found) -> float:
        """Return when another process than `former` reported its first step."""
        until(lambda: (now := self.watch.leader(job.id)) is not None and now != former, LOOK_S)
        status = self.yard.job_folder(job.id) / "status.json"
        size = status.stat().st_size
        until(lambda: status.stat().st_size > size, LOOK_S)
        with status.open("rb") as lines:
            lines.seek(size)
            return datetime.fromisoformat(json.loads(lines.readline())["at"]).timestamp()

    def _worker_of(self, leader: Found) -> int:
        """Return the worker whose forkserver forked a process."""
        forkserver = int(Path(f"/proc/{leader.pid}/stat").read_text().rpartition(")")[2].split()[1])
        return int(Path(f"/proc/{forkserver}/stat").read_text().rpartition(")")[2].split()[1])

    def _lose_machines(self, noticed: list[float], again: list[float]) -> None:
        """Start workers under other machines' names, give each a job, kill all there is of them."""
        workers = [self._start_elsewhere() for _ in range(MACHINES)]
        try:
            with self._local_workers_stopped():
                jobs = [self._running() for _ in workers]
            leaders = [self._leader(job) for job in jobs]
            states = [self._state(job)["id"] for job in jobs]
            start = time.time()
            for worker in workers:
                _kill_tree(worker.pid)
            for job, before in zip(jobs, states, strict=True):
                noticed.append(_at(until(lambda job=job, before=before: self._other_state(job, before), 0.01)) - start)
            for job, leader in zip(jobs, leaders, strict=True):
                again.append(self._step_of_another(job, leader) - start)
                self._cancel(job)
        finally:
            for worker in workers:
                _kill_tree(worker.pid)
                worker.wait()

    def _start_elsewhere(self) -> subprocess.Popen[bytes]:
        name = f"elsewhere-{random.randrange(10**9)}"
        ready = self.yard.folder / f"{name}.ready"
        environment = self.environment | {
            "TRAINYARD_HOME": str(self.yard.home),
            "TRAINYARD_WORKER_READY_FILE": str(ready),
            "TRAINYARD_WORKER_MACHINE": name,
            "TRAINYARD_WORKER_SCRATCH": str(self.yard.home / "work"),
            "PREFECT_WORKER_HEARTBEAT_SECONDS": "5",
        }
        command = [sys.executable, "-m", "prefect_trainyard.deployments.worker", "--pool", "trainyard", "--cpus", "1"]
        with (self.yard.folder / f"{name}.log").open("wb") as log:
            worker = subprocess.Popen(
                [*command, "--name", name], env=os.environ | environment, cwd=self.yard.folder, stdout=log, stderr=log
            )
        until(lambda: ready.exists() or worker.poll() is not None, 0.1)
        return worker

    @contextlib.contextmanager
    def _local_workers_stopped(self) -> Iterator[None]:
        """Keep the workers of the yard from taking runs for the moment."""
        pids = [self.yard.pid(f"worker-{number}") for number in (1, 2)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def _port(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def _at(state: dict[str, Any]) -> float:
    return datetime.fromisoformat(state["timestamp"]).timestamp()


def _kill_tree(pid: int) -> None:
    """Kill a process and all that came from it, at once, as the power cut of a machine does."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.suspend()
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def p99(seconds: list[float]) -> float:
    """Return the 99th percentile; of fewer than a hundred that is the worst one."""
    return sorted(seconds)[max(0, -(-len(seconds) * 99 // 100) - 1)]


def measure(bench: Bench, only: set[str]) -> dict[str, list[float]]:
    """Return the seconds of each thing that was measured, by its name."""
    found: dict[str, list[float]] = {}

    def take(name: str, work: Callable[[], Any], *results: str) -> None:
        if only and name not in only:
            return
        seconds = work()
        found.update(zip(results, seconds if isinstance(seconds, tuple) else (seconds,), strict=True))

    take("child", bench.child_after_parent, "parent's end -> child runs")
    take("kill", bench.child_killed, "training process killed -> next step")
    take("cancel", bench.cancel, "cancel -> no process left")
    take("pause", bench.pause_and_resume, "pause -> no process left", "resume -> next step")
    take("worker", bench.worker_killed, "worker killed -> server knows", "worker killed -> next step")
    take("machine", bench.machine_lost, "machine lost -> server knows", "machine lost -> next step")
    if not only or "stock" in only:
        rival = bench.stock()
        found["process worker: parent's end -> child runs"] = rival["child after parent"]
        found["process worker: cancel -> no process left"] = rival["cancel"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="", help="some of child, kill, cancel, pause, worker, machine, stock")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    only = {name for name in options.only.split(",") if name}
    with tempfile.TemporaryDirectory(prefix="trainyard-bench-") as name:
        yard = FaultyYard(Path(name), cpus="2", workers="2")
        try:
            yard.start()
            with Watch(yard.home / "work") as watch:
                traffic = Traffic(yard, watch, random.Random(1), epochs=1)
                found = measure(Bench(yard, traffic, watch, options.repeats), only)
        finally:
            yard.stop()
    table = Table("", "median s", "p99 s", "best s", "times", title="until a job goes on or is gone")
    for what, seconds in found.items():
        values = (statistics.median(seconds), p99(seconds), min(seconds))
        table.add_row(what, *(f"{value:.2f}" for value in values), str(len(seconds)))
    Console(width=110).print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where and when to kill: components, phases, and how a phase is recognised from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from random import Random
from typing import Any

from faults.traffic import Job, Traffic
from faults.yard import WORKER, FaultyYard, Stuck

COMPONENTS = ("facade", "prefect", "mlflow", "worker", "child")
PHASES = (
    "submitted",
    "waiting",
    "starting",
    "running",
    "checkpointing",
    "uploading",
    "finishing",
    "pausing",
    "cancelling",
)
_PARTS = {"facade": "api", "prefect": "prefect", "mlflow": "mlflow", "worker": WORKER}
#: How long a phase is waited for before the point is tried another time.
PHASE_S = 45.0
#: Epochs that must be left when a job is stopped, so that it cannot be done before the stop.
LEFT = 6


@dataclass(frozen=True)
class Point:
    component: str
    phase: str


def plan(count: int, random: Random, only: Collection[str] = ()) -> list[Point]:
    """Return so many points, every pair as often as any other, in random order.

    `only` names components and phases to stay with; of a kind that is not named all are taken.
    """
    components, phases = ([n for n in names if n in only] or names for names in (COMPONENTS, PHASES))
    pairs = [Point(component, phase) for component in components for phase in phases]
    points: list[Point] = []
    while len(points) < count:
        random.shuffle(pairs)
        points += pairs
    return points[:count]


class Sniper:
    """Brings about one point after the other."""

    def __init__(self, yard: FaultyYard, traffic: Traffic, random: Random) -> None:
        self.yard, self.traffic, self.random = yard, traffic, random
        self.counts: dict[Point, int] = {}
        self.missed: list[str] = []
        self._requests: list[threading.Thread] = []

    def hit(self, point: Point) -> bool:
        """Wait for the phase and kill; False when the phase did not come up in time."""
        try:
            victim = getattr(self, f"_{point.phase}")()
            return self._kill(point, victim)
        except Stuck as stuck:
            self.missed.append(f"{point.component} x {point.phase}: {stuck}")
            return False

    def settle(self) -> None:
        """Wait for the answers of requests that the kills interrupted."""
        for request in self._requests:
            request.join()
        self._requests.clear()

    # --- phases: each returns the victim at the moment of the kill

    def _submitted(self) -> None:
        self._in_background(self.traffic.submit)
        self._pause(0.12)

    def _waiting(self) -> Job:
        parents = [j for j in self.traffic.live("train") if j.type != "PAUSED" and not j.cancelled]
        if not parents:
            parents = [self.traffic.submit()]
        children = [j for j in self.traffic.live("evaluate") if j.state.get("name") == "AwaitingParent"]
        child = children[0] if children else self.traffic.submit("evaluate", self.random.choice(parents))
        parent = child.parent
        assert parent is not None
        if self.random.random() < 0.5:  # the moment in which it is let go

            def parent_has_result() -> Job | None:
                self._look()
                return child if self._result(parent) or parent.ended else None

            self._sight(parent_has_result, "the end of a parent")
            self._pause(1.5)
        else:
            self._pause(0.5)
        return child

    def _starting(self) -> Job:
        def look() -> Job | None:
            self._look()
            return next((job for job in self.traffic.live() if job.type == "PENDING"), None)

        job = self._sight(look, "a job that starts")
        self._pause(0.4)
        return job

    def _running(self) -> Job:
        def look() -> Job | None:
            self._look()
            running = [j for j in self._trained() if j.type == "RUNNING" and self.traffic.epoch(j) >= 1]
            return self.random.choice(running) if running else None

        job = self._sight(look, "a job that runs")
        self._pause(1.0)
        return job

    def _checkpointing(self) -> Job:
        def look() -> Job | None:
            for job in self._trained():
                with contextlib.suppress(FileNotFoundError):
                    if any(e.name.endswith(".tmp") for e in os.scandir(self.yard.job_folder(job.id) / "train")):
                        return job
            return None

        job = self._sight(look, "a checkpoint that is being written", every_s=0.001)
        self._pause(0.02)
        return job

    def _uploading(self) -> Job:
        def look() -> Job | None:
            trained = (j for j in self._trained() if self.traffic.epoch(j) == j.epochs and not self._result(j))
            return next(trained, None)

        job = self._sight(look, "a job whose last epoch is over", every_s=0.01)
        self._pause(0.8)
        return job

    def _finishing(self) -> Job:
        had = {job.id for job in self.traffic.live() if self._result(job)}

        def look() -> Job | None:
            fresh = (j for j in self.traffic.with_process() if j.id not in had and self._result(j))
            return next(fresh, None)

        job = self._sight(look, "a job with its result", every_s=0.01)
        self._pause(0.4)
        return job

    def _pausing(self) -> Job:
        return self._stopping("pause")

    def _cancelling(self) -> Job:
        return self._stopping("cancel")

    def _stopping(self, verb: str) -> Job:
        anywhere = self.random.random() < 0.2

        def look() -> Job | None:
            self._look()
            found = [
                j
                for j in self.traffic.live("train")
                if j.type not in ("PAUSED", "CANCELLING")
                and not j.cancelled
                and self.traffic.epoch(j) <= j.epochs - LEFT
                and (anywhere or (j.type == "RUNNING" and self.traffic.epoch(j) >= 1))
            ]
            return self.random.choice(found) if found else None

        job = self._sight(look, f"a job to {verb}")
        if verb == "cancel":
            job.cancelled = True
        else:
            job.pauses += 1

        def ask() -> None:
            before = self.traffic.epoch(job)
            done = self.traffic.ask(job, verb)
            if verb == "cancel" and (not done or self.traffic.epoch(job) > max(before, job.epochs - LEFT)):
                job.cancel_may_lose = True

        self._in_background(ask)
        self._pause(0.5)
        return job

    # --- the kill

    def _kill(self, point: Point, victim: Job | None) -> bool:
        pid = self._target(point, victim)
        hurt = self._hurt(point, pid)
        for job in hurt:
            job.losses += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if victim is not None and victim.cancelled and point.component == "prefect":
            victim.cancel_may_lose = True  # while Prefect is away the job trains on
        for job in {*hurt, *([victim] if victim else [])}:
            job.note(f"SIGKILL of {point.component} (process {pid}), point '{point.phase}' of {victim and victim.name}")
        self.counts[point] = self.counts.get(point, 0) + 1
        return True

    def _target(self, point: Point, victim: Job | None) -> int:
        if point.component == "child":
            leader = self.traffic.watch.leader(victim.id) if victim is not None else None
            if leader is not None:
                return leader.pid

            def anybody() -> int | None:
                leaders = (self.traffic.watch.leader(job.id) for job in self._spared())
                return next((found.pid for found in leaders if found is not None), None)

            return self._sight(anybody, "a training process")
        if point.component == "worker" and self.random.random() < 0.5 and (pid := self.yard.forkserver()) is not None:
            return pid
        return self.yard.pid(_PARTS[point.component])

    def _hurt(self, point: Point, pid: int) -> list[Job]:
        """Return the jobs that lose their process by this kill."""
        if point.component == "worker":
            return self.traffic.with_process()
        if point.component == "child":
            watch = self.traffic.watch
            return [j for j in self.traffic.with_process() if (f := watch.leader(j.id)) is not None and f.pid == pid]
        return []

    # --- helpers

    def _spared(self) -> list[Job]:
        """Return the jobs with a process that stand another loss."""
        return [job for job in self.traffic.with_process() if job.losses < self.traffic.losses_max]

    def _trained(self) -> list[Job]:
        return [job for job in self._spared() if job.action == "train"]

    def must_spare(self) -> bool:
        """Tell whether a job runs that another loss would end by right."""
        return any(job.losses >= self.traffic.losses_max for job in self.traffic.live())

    def _result(self, job: Job) -> bool:
        return (self.yard.job_folder(job.id) / "result.json").exists()

    def _look(self) -> None:
        """Read the states; one busy moment of the server is no reason to miss the phase."""
        with contextlib.suppress(Exception):
            self.traffic.refresh()

    def _sight(self, look: Callable[[], object], what: str, every_s: float = 0.02) -> Any:
        """Return what `look` finds; new jobs are submitted as the old ones end."""
        end, topped_up = time.monotonic() + PHASE_S, time.monotonic()
        while (found := look()) is None:
            now = time.monotonic()
            if now > end:
                raise Stuck(f"{what} did not come up within {PHASE_S:.0f} s")
            if now - topped_up > 2.0:
                topped_up = now
                self.traffic.top_up()
            time.sleep(every_s)
        return found

    def _pause(self, longest_s: float) -> None:
        """Let a random part of the phase go by."""
        time.sleep(self.random.uniform(0.0, longest_s))

    def _in_background(self, request: Callable[[], object]) -> None:
        thread = threading.Thread(target=request, daemon=True)
        thread.start()
        self._requests.append(thread)

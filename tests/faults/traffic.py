"""The jobs that a faulty yard works on, and what has been done to each of them."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from random import Random
from typing import Any

from faults.watch import Watch
from faults.yard import FaultyYard, Stuck, until

#: More losses than this and a job may end as Error by right.
MAX_ATTEMPTS = 10
#: Without the field in the request Prefect's runs are given up at the third.
_MAX_ATTEMPTS_BEFORE = 3
#: Kept in flight: two of them run, one waits.
IN_FLIGHT = 4
#: A job that Prefect calls Running has a process, or another one soon.
NO_PROCESS_S = 35.0
#: What a process may take to end after its job.
AFTERWARDS_S = 12.0

_HELD = "SCHEDULED"
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_EPOCH = re.compile(r" epoch (\d+)/(\d+) ")


def train_spec(epochs: int) -> dict[str, Any]:
    """Return the spec of a training of some seconds; its checkpoint is 4 MB."""
    return {
        "model": {"backbone": {"type": "test_resnet"}, "input_width": 32, "input_height": 32},
        "dataset": {"batch_size": 64, "workers": 0, "augmentation": {"horizontal_flip": 0.0}},
        "train": {"train_config": {"runner": {"max_epochs": epochs}}, "exp_config": {"deterministic": True}},
    }


@dataclass(eq=False)
class Job:
    """One job and its history as the harness made it."""

    name: str
    action: str
    epochs: int
    parent: Job | None = None
    id: str = ""
    posted: bool = False
    """Whether the POST was answered."""
    state: dict[str, Any] = field(default_factory=dict)
    """Prefect's, as of the last look."""
    since: float = 0.0
    """When the harness first saw that state."""
    bare_since: float | None = None
    """Since when it is Running without a process."""
    losses: int = 0
    pauses: int = 0
    cancelled: bool = False
    cancel_may_lose: bool = False
    """The job may have been done before the cancel reached it."""
    history: list[str] = field(default_factory=list)

    @property
    def type(self) -> str:
        return str(self.state.get("type", ""))

    @property
    def ended(self) -> bool:
        return self.type in _FINAL

    def note(self, what: str) -> None:
        self.history.append(f"{time.strftime('%H:%M:%S')} {what}")


class Traffic:
    """Submits jobs and follows them. `lock` guards the list of jobs."""

    def __init__(self, yard: FaultyYard, watch: Watch, random: Random, *, epochs: int) -> None:
        self.yard, self.watch, self.random, self.epochs = yard, watch, random, epochs
        self.experiment = yard.experiment()
        self.jobs: list[Job] = []
        self.lock = threading.Lock()
        self.violations: list[tuple[str, str, str]] = []
        self.losses_max = MAX_ATTEMPTS - 2
        self._flagged: set[tuple[str, str]] = set()

    # --- requests

    def path(self, job: Job) -> str:
        return f"{self.experiment}/jobs/{job.id}"

    def submit(self, action: str = "train", parent: Job | None = None, *, exact: bool = False) -> Job:
        """Start a job; it is in the list before the request, because the answer may take an outage.

        Trainings take about `epochs`, or `exact`ly so many.
        """
        with self.lock:
            least, most = (self.epochs, self.epochs) if exact else (self.epochs * 2 // 3, self.epochs * 4 // 3)
            epochs = self.random.randint(least, most) if action == "train" else 0
            job = Job(f"{action}-{len(self.jobs)}", action, epochs, parent)
            self.jobs.append(job)
        body: dict[str, Any] = {"action": action, "name": job.name, "max_attempts": MAX_ATTEMPTS}
        if action == "train":
            body["specs"] = train_spec(epochs)
        if parent is not None:
            body["parent_job_id"] = parent.id
        answer = self.yard.rest.send("POST", f"{self.experiment}/jobs", body)
        if answer.status_code != 201:
            # A parent that was cancelled in the meantime is refused by right.
            if not (answer.status_code == 400 and parent is not None and parent.cancelled):
                self.violations.append(("refused", job.name, f"{answer.status_code} {answer.text[:300]}"))
            with self.lock:
                self.jobs.remove(job)
            return job
        job.id, job.posted = str(answer.json()), True
        job.note("posted")
        self.watch.follow(self.yard.log(job.id))
        return job

    def ask(self, job: Job, verb: str) -> bool:
        """POST `:cancel`, `:pause` or `:resume`; False when the job was not in a state for it."""
        job.note(f":{verb} sent")
        answer = self.yard.rest.send("POST", f"{self.path(job)}:{verb}", {})
        job.note(f":{verb} answered {answer.status_code}")
        if answer.status_code >= 400:
            job.note(answer.text[:200])
        return answer.status_code == 200

    # --- looking

    def refresh(self) -> None:
        """Read the state of every job that has not ended, and see whether the processes fit."""
        open_jobs = [job for job in list(self.jobs) if job.posted and not job.ended]
        found = self.yard.states([job.id for job in open_jobs])
        now = time.monotonic()
        for job in open_jobs:
            run = found.get(job.id)
            if run is None:
                self._flag("lost job", job, "its flow run does not exist any more")
                continue
            if run["state"]["id"] != job.state.get("id"):
                job.state, job.since = run["state"], now
                job.note(f"{job.state['type']}/{job.state['name']} {job.state['message'] or ''}"[:160])
        self._compare(now)

    def _compare(self, now: float) -> None:
        """Compare the states just read with the processes that there are."""
        running = self.watch.running()
        for job in self.jobs:
            resting = job.ended or job.type in ("PAUSED", _HELD)
            if resting and job.id in running and now - job.since > AFTERWARDS_S:
                self._flag("orphan process", job, f"{running[job.id]} {AFTERWARDS_S:.0f} s after {job.type}")
            if job.id in running or job.type not in ("RUNNING", "CANCELLING"):
                job.bare_since = None
            elif job.bare_since is None:
                job.bare_since = now
            elif now - job.bare_since > NO_PROCESS_S:
                self._flag("not noticed", job, f"{job.type} without a process for {NO_PROCESS_S:.0f} s")

    def _flag(self, kind: str, job: Job, what: str) -> None:
        if (kind, job.id) not in self._flagged:
            self._flagged.add((kind, job.id))
            self.violations.append((kind, job.id, f"at {time.strftime('%H:%M:%S')}: {what}"))

    def live(self, action: str | None = None) -> list[Job]:
        return [j for j in list(self.jobs) if j.posted and not j.ended and action in (None, j.action)]

    def with_process(self) -> list[Job]:
        running = self.watch.running()
        return [job for job in self.live() if job.id in running]

    def epoch(self, job: Job) -> int:
        """Return the last epoch that the log of a job tells of."""
        try:
            found = _EPOCH.findall(self.yard.log(job.id).read_text(errors="replace"))
        except FileNotFoundError:
            return 0
        return int(found[-1][0]) if found else 0

    # --- keeping it going

    def top_up(self) -> None:
        """Resume what is paused and submit more until enough is in flight; every third training has a child."""
        self.refresh()
        for job in self.live():
            if job.type == "PAUSED":
                self.ask(job, "resume")
        while len([j for j in self.live() if j.type != "PAUSED"]) < IN_FLIGHT:
            job = self.submit()
            if job.posted and self.random.random() < 1 / 3:
                self.submit("evaluate", job)
            self.refresh()

    def learn_attempts(self) -> None:
        """Find out how many losses a job stands."""
        job = self.submit()
        run = self.yard.states([job.id])[job.id]
        if run.get("job_variables", {}).get("max_attempts") != MAX_ATTEMPTS:
            self.losses_max = _MAX_ATTEMPTS_BEFORE - 1

    def drain(self, timeout_s: float) -> None:
        """Wait for the end of every job; what has not ended by then is a violation."""

        def over() -> bool:
            self.refresh()
            for job in self.live():
                if job.type == "PAUSED":
                    self.ask(job, "resume")
            return not self.live()

        try:
            until(over, "the end of all jobs", timeout_s, every_s=0.5)
        except Stuck:
            for job in self.live():
                state = f"{job.state.get('type')}/{job.state.get('name')}: {job.state.get('message')}"
                self._flag("lost job", job, f"it has not ended: {state}")

"""Random lives of jobs against a small model of the states. REST and Prefect are real, the test is the worker."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from facade_support import Facade, Member, Prefect, serve
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.deployments.processes import this_machine, this_process
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.attempts import OWNER_LABEL
from prefect_trainyard.schemas.results import EpochMetrics, JobResult
from support import poll

EXAMPLES, STEPS = 48, 75
#: What must have been executed for the test to mean anything.
STEPS_MIN = 2000
SETTLE_S = 20.0
JOBS_MAX = 8
#: Steps from which on the facade is restarted once in a life; it takes a second.
RESTART_FROM = 20

#: States of the model, the words of REST 5.5 and Prefect's state types for them. `taken` is a run that a worker has.
REST = {
    "waiting": "Pending",
    "pending": "Pending",
    "taken": "Pending",
    "running": "Running",
    "pausing": "Pausing",
    "cancelling": "Canceling",
    "paused": "Paused",
    "cancelled": "Canceled",
    "done": "Done",
    "failed": "Error",
}
PREFECT = {
    "waiting": {"SCHEDULED"},
    "pending": {"SCHEDULED"},
    "taken": {"PENDING"},
    "running": {"RUNNING"},
    "pausing": {"CANCELLING"},
    "cancelling": {"CANCELLING"},
    "paused": {"PAUSED"},
    "cancelled": {"CANCELLED"},
    "done": {"COMPLETED"},
    "failed": {"FAILED", "CRASHED"},
}
FINAL = ("cancelled", "done", "failed")
PAUSABLE = ("waiting", "pending", "taken", "running", "pausing")
#: What must be refused in a state.
WRONG = {
    state: [
        *(["cancel"] if state in FINAL else []),
        *(["pause"] if state in (*FINAL, "cancelling") else []),
        *(["resume"] if state not in ("cancelled", "paused") else []),
    ]
    for state in REST
}


class ModelJob:
    def __init__(self, id: str, state: str, parent: ModelJob | None = None) -> None:
        self.id, self.parent = id, parent
        #: All states so far; the last one is the present one.
        self.states = [state]
        #: The parent that it failed with.
        self.blamed: str | None = None
        self.losses = 0
        #: What was refused already in the present state.
        self.refused: set[str] = set()

    @property
    def state(self) -> str:
        return self.states[-1]

    def enter(self, state: str) -> None:
        self.states.append(state)
        self.refused.clear()

    def __repr__(self) -> str:
        return f"{self.id[:8]} ({self.state})"


class Yard:
    """A facade that can be restarted, on one database."""

    def __init__(self, settings: ApiSettings, prefect: Prefect) -> None:
        self._settings, self.prefect = settings, prefect
        self._serving: Iterator[Facade] | None = None
        self.restarts = 0
        self.start()

    def start(self) -> None:
        self._serving = serve(self._settings, self.prefect)
        self.facade = next(self._serving)

    def stop(self) -> None:
        assert self._serving is not None
        self._serving.close()  # type: ignore[attr-defined]

    def restart(self, member: Member) -> Member:
        self.stop()
        self.start()
        self.restarts += 1
        return self.facade.member(org=member.org, release="5.5", root="orgs")


class Life(RuleBasedStateMachine):
    """Rules are what clients, workers and accidents do."""

    yard: ClassVar[Yard]
    executed: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        self.member = self.yard.facade.member(release="5.5", root="orgs")
        self.owner = f"experiments/{self.member.ready()}"
        self.jobs: list[ModelJob] = []
        self.gone: list[ModelJob] = []
        #: Jobs that the worker has moved since REST was last seen to agree.
        self.ahead: set[ModelJob] = set()
        self.steps, self.restarted = 0, False

    # --- what clients do

    @precondition(lambda self: len(self.jobs) < JOBS_MAX)
    @rule()
    def submit(self) -> None:
        self._count("submit")
        self.jobs.append(ModelJob(self.member.start(self.owner, "train"), "pending"))

    @precondition(lambda self: self.jobs and len(self.jobs) < JOBS_MAX)
    @rule(data=st.data())
    def submit_child(self, data: st.DataObject) -> None:
        self._count("submit child")
        parent = data.draw(st.sampled_from([*self.jobs, *self.gone]))
        self._settle_others(parent)
        if parent.state in ("failed", "cancelled"):
            self._settle()
        answer = self.member.post_job(self.owner, "train", parent_job_id=parent.id)
        if answer.status_code != 201:
            assert answer.status_code in (400, 404), answer.text
            assert parent in self.gone or parent.state in ("failed", "cancelled"), f"{parent.state}: {answer.text}"
            return
        assert parent not in self.gone, "a job was made after a deleted parent"
        child = ModelJob(str(answer.json()), "waiting", parent)
        self.jobs.append(child)
        if parent.state in FINAL:
            assert parent.state == "done", f"a child of a {parent.state} job was accepted"
            self.ahead.add(child)
            self._follow(parent)

    @precondition(lambda self: any(job.state not in FINAL for job in self.jobs))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self._count("cancel")
        job = self._any(data, *(set(REST) - set(FINAL)))
        self._settle_others(job)
        answer = self._ask(job, "cancel")
        assert answer.status_code == 200, f"{job.state}: {answer.text}"
        self._move(job, "cancelling" if job.state in ("taken", "running", "pausing", "cancelling") else "cancelled")

    @precondition(lambda self: any(job.state in PAUSABLE for job in self.jobs))
    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        self._count("pause")
        job = self._any(data, *PAUSABLE)
        self._settle_others(job)
        answer = self._ask(job, "pause")
        assert answer.status_code == 200, f"{job.state}: {answer.text}"
        self._move(job, "pausing" if job.state in ("taken", "running", "pausing") else "paused")

    @precondition(lambda self: any(set(WRONG[job.state]) - job.refused for job in self.jobs))
    @rule(data=st.data())
    def ask_in_vain(self, data: st.DataObject) -> None:
        """Nothing comes of a request that does not fit the state, once for every state of a job."""
        self._count("ask in vain")
        asked = [(job, verb) for job in self.jobs for verb in WRONG[job.state] if verb not in job.refused]
        job, verb = data.draw(st.sampled_from(asked))
        self._settle_others(job)
        answer = self._ask(job, verb)
        job.refused.add(verb)
        # 201 is how the clients of 5.5 are told that there was nothing left to cancel; the first stop of two stands.
        told = answer.status_code != 200 or job in self.ahead or job.state == "cancelling"
        assert told, f"{verb} of a {job.state} job was answered 200"

    @precondition(lambda self: any(job.state in ("cancelled", "paused") for job in self.jobs))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self._count("resume")
        job = self._any(data, "cancelled", "paused")
        self._settle()
        answer = self._ask(job, "resume")
        parent = job.parent
        if answer.status_code != 200:
            assert answer.status_code in (400, 404, 409), answer.text
            hopeless = parent is not None and (parent in self.gone or parent.state in ("failed", "cancelled"))
            assert hopeless, f"a {job.state} job could not be resumed: {answer.text}"
            return
        job.losses = 0
        self._move(job, "pending" if parent is None or parent.state == "done" else "waiting")
        if parent is not None:
            self.ahead.add(job)
            self._follow(parent)

    @precondition(lambda self: any("delete" not in job.refused for job in self.jobs))
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self._count("delete")
        job = data.draw(st.sampled_from([job for job in self.jobs if "delete" not in job.refused]))
        self._settle()
        answer = self.member.client.delete(f"{self.owner}/jobs/{job.id}")
        needed = any(child.parent is job and child.state not in FINAL for child in self.jobs)
        if job.state not in (*FINAL, "paused") or needed:
            assert answer.status_code == 400, f"a {job.state} job was deleted: {answer.text}"
            job.refused.add("delete")
            return
        assert answer.status_code == 200, answer.text
        self.jobs.remove(job)
        self.gone.append(job)
        assert self.member.client.get(f"{self.owner}/jobs/{job.id}").status_code == 404

    # --- what workers do

    @precondition(lambda self: any(job.state == "pending" for job in self.jobs))
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        self._count("take")
        self._settle()
        job = self._any(data, "pending")
        answer = self._set_state(job, "PENDING", force=False)
        assert answer == "ACCEPT", f"a worker could not take a pending job: {answer}"
        self._label(job, this_process(this_machine()))
        self._worker_moved(job, "taken")

    @precondition(lambda self: any(job.state == "taken" for job in self.jobs))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self._count("start")
        job = self._any(data, "taken")
        assert self._set_state(job, "RUNNING", force=False) == "ACCEPT"
        self._worker_moved(job, "running")

    @precondition(lambda self: any(job.state in ("running", "pausing", "cancelling") for job in self.jobs))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """The flow ends well, perhaps before it hears that it should stop."""
        self._count("finish")
        job = self._any(data, "running", "pausing", "cancelling")
        self._leave_result(job)
        self._set_state(job, "COMPLETED")
        self._label(job, "")
        self._worker_moved(job, "done")

    @precondition(lambda self: any(job.state == "running" for job in self.jobs))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self._count("fail")
        job = self._any(data, "running")
        self._set_state(job, "FAILED", message="Flow run encountered an exception: JobFailed: it would not learn")
        self._label(job, "")
        self._worker_moved(job, "failed")

    @precondition(lambda self: any(job.state in ("pausing", "cancelling") for job in self.jobs))
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        """The process is gone, and the worker says what follows."""
        self._count("stop")
        job = self._any(data, "pausing", "cancelling")
        self._end_stop(job)

    @precondition(lambda self: any(job.state in ("running", "pausing", "cancelling") for job in self.jobs))
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """The process or its worker dies, and the run is given back."""
        self._count("crash")
        job = self._any(data, "running", "pausing", "cancelling")
        if job.state != "running":
            self._end_stop(job)
            return
        job.losses += 1
        if job.losses >= 3:
            self._set_state(job, "CRASHED", message="Its worker died. It was attempt 3 of 3.")
            self._label(job, "")
            self._worker_moved(job, "failed")
        else:
            body = {"infrastructure_pid": ""}
            self.yard.prefect.client.patch(f"flow_runs/{job.id}", json=body).raise_for_status()
            self._set_state(job, "SCHEDULED", name="AwaitingRetry", message="The worker of this run died.")
            self._label(job, "")
            self._worker_moved(job, "pending")

    # --- accidents

    @precondition(lambda self: self.steps >= RESTART_FROM and not self.restarted)
    @rule()
    def restart_the_facade(self) -> None:
        self._count("restart")
        self.restarted = True
        self.member = self.yard.restart(self.member)

    @precondition(lambda self: self.ahead)
    @rule()
    def wait_until_rest_agrees(self) -> None:
        self._count("settle")
        self._settle()

    # --- what always holds

    @invariant()
    def rest_shows_the_model(self) -> None:
        if hasattr(self, "jobs") and not self.ahead:
            self._settle()

    def teardown(self) -> None:
        if not hasattr(self, "jobs") or sys.exc_info()[0] is not None:
            return
        self._settle()
        for job in self.jobs:
            self._check_log(job)
            for before, after in pairwise(job.states):
                assert before == after or before not in ("done", "failed"), job.states
        # Workers of later examples must not find them; a deleted facade job is none of Prefect's, either.
        for job in self.gone:
            assert not self.yard.prefect.exists(job.id)

    # --- the model

    def _move(self, job: ModelJob, state: str) -> None:
        job.enter(state)
        self._follow(job)

    def _worker_moved(self, job: ModelJob, state: str) -> None:
        self.ahead.add(job)
        self._move(job, state)

    def _follow(self, parent: ModelJob) -> None:
        """Let waiting children follow the end of their parent."""
        if parent.state not in FINAL:
            return
        for child in [j for j in self.jobs if j.parent is parent and j.state == "waiting"]:
            if parent in self.ahead:
                self.ahead.add(child)
            if parent.state == "failed":
                child.blamed = parent.id
            self._move(child, {"done": "pending"}.get(parent.state, parent.state))

    def _end_stop(self, job: ModelJob) -> None:
        if job.state == "pausing":
            self._set_state(job, "PAUSED", name="Suspended", state_details={"pause_reschedule": True})
        else:
            self._set_state(job, "CANCELLED")
        self._label(job, "")
        self._worker_moved(job, "paused" if job.state == "pausing" else "cancelled")

    # --- comparing

    def _settle(self) -> None:
        """Wait until REST and Prefect show what the model says."""
        end = time.monotonic() + SETTLE_S
        while self.jobs and (differences := self._differences()):
            assert time.monotonic() < end, "\n".join(differences)
            time.sleep(0.02)
        self.ahead.clear()

    def _differences(self) -> list[str]:
        listed = {job["id"]: job for job in self._list()}
        found = [
            f"{job}, {job.states}: REST shows {listed.get(job.id, {}).get('status')}"
            for job in self.jobs
            if job.id not in listed or listed[job.id]["status"] != REST[job.state]
        ]
        for job_id in set(listed) - {job.id for job in self.jobs}:
            known = next((job for job in self.gone if job.id == job_id), None)
            states = known.states if known is not None else "not made by the test"
            found.append(f"REST lists {job_id}, which was deleted, {states}: {listed[job_id]}")
        if found:
            return found
        for job in self.jobs:
            message = listed[job.id]["result"].get("detailed_status", {}).get("message", "")
            if REST[job.state] == "Pending" and not message:
                found.append(f"nothing says why {job} is pending")
            if job.blamed is not None and job.state == "failed" and job.blamed not in message:
                found.append(f"{message!r} of {job} does not name its parent {job.blamed}")
        return found or self._differences_in_prefect()

    def _differences_in_prefect(self) -> list[str]:
        body = {"flow_runs": {"id": {"any_": [job.id for job in self.jobs]}}}
        answer = self.yard.prefect.client.post("flow_runs/filter", json=body).raise_for_status()
        states = {run["id"]: run["state"] for run in answer.json()}
        return [
            f"{job}, {job.states}: in Prefect it is {states.get(job.id)}"
            for job in self.jobs
            if job.id not in states
            or states[job.id]["type"] not in PREFECT[job.state]
            or (states[job.id]["name"] == "AwaitingParent") != (job.state == "waiting")
        ]

    def _check_log(self, job: ModelJob) -> None:
        """See that the log ends when the job rests, for clients that read along, and only then."""
        end = {"done": "Done EOF"}.get(job.state, "Error EOF")
        rests = job.state in (*FINAL, "paused")

        def log() -> str:
            return self.member.client.get(f"{self.owner}/jobs/{job.id}/logs").text

        if rests:
            poll(lambda: log().endswith(f"\n{end}\n"), f"the last line of the log of {job}", 30)
        assert log().count(" EOF\n") == rests, f"{job}: {log()[-300:]!r}"

    def _settle_others(self, job: ModelJob) -> None:
        """Settle when others than the job itself are ahead: their order would decide what comes out."""
        if self.ahead - {job}:
            self._settle()

    # --- requests

    def _count(self, name: str) -> None:
        self.executed[name] += 1
        self.steps += 1

    def _any(self, data: st.DataObject, *states: str) -> ModelJob:
        return data.draw(st.sampled_from([j for j in self.jobs if not states or j.state in states]))

    def _list(self) -> list[dict[str, Any]]:
        answer = self.member.client.get(f"{self.owner}/jobs", params={"size": 100})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["jobs"])

    def _ask(self, job: ModelJob, verb: str) -> Any:
        answer = self.member.client.post(f"{self.owner}/jobs/{job.id}:{verb}", content="{}")
        assert answer.status_code < 500, answer.text
        return answer

    def _set_state(self, job: ModelJob, type: str, *, force: bool = True, **state: Any) -> str:
        body = {"state": {"type": type, **state}, "force": force}
        answer = self.yard.prefect.client.post(f"flow_runs/{job.id}/set_state", json=body)
        return str(answer.raise_for_status().json()["status"])

    def _label(self, job: ModelJob, owner: str) -> None:
        body = {OWNER_LABEL: owner}
        self.yard.prefect.client.patch(f"flow_runs/{job.id}/labels", json=body).raise_for_status()

    def _leave_result(self, job: ModelJob) -> None:
        storage, folder = self.yard.facade.storage, layout.job(self.member.org, job.id)
        result = JobResult(
            action=Action.TRAIN,
            network="classification_pyt",
            uri=storage.address(folder),
            job_id=job.id,
            message="Trained.",
            history=[EpochMetrics(epoch=1, max_epoch=1, metrics={"loss": 1.0}, seconds=1.0)],
        )
        storage.write_bytes(layout.download(self.member.org, job.id), b"tar")
        stats = {"file_size": 3, "sha256_digest": "0" * 64}
        storage.write_json(layout.download_stats(self.member.org, job.id), stats)
        storage.write_json(f"{folder}/result.json", result.model_dump(mode="json"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_random_lives_of_jobs_follow_the_model(
    prefect_server: Prefect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yard = Yard(
        ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0, reconcile_interval_s=1.0),
        prefect_server,
    )
    Life.yard, Life.executed = yard, Counter()
    start = time.monotonic()
    try:
        run_machine(
            Life,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                derandomize=True,
                deadline=None,
                database=None,
                # A life takes seconds: the first one that goes wrong is shown as it is.
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        yard.stop()
        total = sum(Life.executed.values())
        with capsys.disabled():
            counts = ", ".join(f"{count} {name}" for name, count in sorted(Life.executed.items()))
            print(f"\n{total} steps in {time.monotonic() - start:.0f} s ({counts}; {yard.restarts} restarts)")
    assert total >= STEPS_MIN

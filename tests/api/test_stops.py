"""Cancel, pause and resume, whatever the job is doing. There is no worker: tests do what it would."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from facade_support import Facade, Member
from support import poll


@pytest.fixture
def new(facade: Facade) -> Member:
    """A user whose client speaks release 5.5."""
    return facade.member(release="5.5", root="orgs")


def prefect_state(member: Member, job_id: str) -> tuple[str, str]:
    state = member.facade.prefect.run(job_id)["state"]
    return state["type"], state["name"]


def post(member: Member, owner: str, job_id: str, verb: str, body: Any = None) -> Any:
    answer = member.client.post(f"{owner}/jobs/{job_id}:{verb}", content=json.dumps(body or {}))
    assert answer.status_code == 200, answer.text
    return answer.json()


def running(member: Member, owner: str, action: str = "train") -> str:
    job_id = member.start(owner, action)
    member.facade.prefect.move(job_id, "RUNNING")
    member.wait(owner, job_id, "Running")
    return job_id


def suspend(member: Member, job_id: str) -> None:
    """Do what a worker does when the process of a job that is being paused has ended."""
    state = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
    answer = member.facade.prefect.client.post(f"flow_runs/{job_id}/set_state", json={"state": state, "force": True})
    answer.raise_for_status()


def log_of(member: Member, owner: str, job_id: str) -> str:
    return member.client.get(f"{owner}/jobs/{job_id}/logs").text


def test_clients_of_5_3_pause_training_by_cancel(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = running(ann, owner)
    child = ann.start(owner, "evaluate", parent_job_id=job_id)
    assert post(ann, owner, job_id, "cancel") == {}
    assert prefect_state(ann, job_id) == ("CANCELLING", "Pausing")
    assert ann.job(owner, job_id)["status"] == "Running"
    suspend(ann, job_id)
    ann.wait(owner, job_id, "Canceled")
    poll(lambda: log_of(ann, owner, job_id).endswith("\nError EOF\n"), "the end of the log", 30)
    assert "paused" in ann.job(owner, child)["result"]["message"] and ann.job(owner, child)["status"] == "Pending"
    assert post(ann, owner, job_id, "resume", {"parent_job_id": None, "specs": {}}) == {}
    assert prefect_state(ann, job_id) == ("SCHEDULED", "Resuming")
    assert ann.job(owner, job_id)["status"] == "Pending" and "EOF" not in log_of(ann, owner, job_id)
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")
    poll(lambda: prefect_state(ann, child)[1] == "Scheduled", "the child", 30)


def test_clients_of_5_3_cancel_what_they_have_paused_by_a_second_cancel(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    paused, pausing = running(ann, owner), running(ann, owner)
    child = ann.start(owner, "evaluate", parent_job_id=paused)
    for job_id in (paused, pausing):
        post(ann, owner, job_id, "cancel")
    suspend(ann, paused)
    ann.wait(owner, paused, "Canceled")
    assert prefect_state(ann, child)[1] == "AwaitingParent"
    post(ann, owner, paused, "cancel")
    assert prefect_state(ann, paused)[0] == "CANCELLED"
    assert paused in ann.wait(owner, child, "Canceled")["result"]["message"]
    post(ann, owner, pausing, "cancel")
    assert prefect_state(ann, pausing) == ("CANCELLING", "Cancelling")
    ended = ann.client.post(f"{owner}/jobs/{paused}:cancel")
    assert ended.status_code == 404 and "Incomplete job not found" in ended.json()["error_desc"]


def test_clients_of_5_5_have_words_for_pausing_and_cancelling(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    assert job_id in post(new, owner, job_id, "pause")["message"]
    shown = new.job(owner, job_id)
    assert shown["status"] == "Pausing" and "checkpoint" in shown["result"]["detailed_status"]["message"]
    suspend(new, job_id)
    assert new.wait(owner, job_id, "Paused")["result"]["detailed_status"]["status"] == "PAUSED"
    post(new, owner, job_id, "pause")  # once more does no harm
    post(new, owner, job_id, "resume")
    assert new.job(owner, job_id)["status"] == "Pending"
    new.facade.prefect.move(job_id, "RUNNING")
    new.wait(owner, job_id, "Running")
    assert "message" in post(new, owner, job_id, "cancel")
    assert prefect_state(new, job_id) == ("CANCELLING", "Cancelling")
    assert new.job(owner, job_id)["status"] == "Canceling"
    new.facade.prefect.move(job_id, "CANCELLED")
    new.wait(owner, job_id, "Canceled")
    again = new.client.post(f"{owner}/jobs/{job_id}:cancel")
    assert again.status_code == 201 and "ended" in again.json()["message"]
    assert new.client.post(f"{owner}/jobs/{job_id}:pause").status_code == 404


def test_a_job_can_be_resumed_the_moment_its_process_has_ended(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    for _ in range(5):
        post(new, owner, job_id, "pause")
        suspend(new, job_id)
        post(new, owner, job_id, "resume")
        assert prefect_state(new, job_id) == ("SCHEDULED", "Resuming")
        new.facade.prefect.move(job_id, "RUNNING")
        new.wait(owner, job_id, "Running")


def test_only_training_can_be_paused(new: Member) -> None:
    dataset_id = new.filled()
    owner = f"experiments/{new.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)}"
    train = new.start(owner, "train")
    evaluate = new.start(owner, "evaluate", parent_job_id=train)
    assert new.client.post(f"{owner}/jobs/{evaluate}:pause").status_code == 404
    convert = new.start(f"datasets/{dataset_id}", "convert")
    assert new.client.post(f"datasets/{dataset_id}/jobs/{convert}:pause").status_code == 404
    assert {new.job(owner, i)["status"] for i in (train, evaluate)} == {"Pending"}


def test_jobs_without_a_process_are_paused_at_once_and_go_back_to_where_they_were(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    pending = new.start(owner, "train")
    held = new.start(owner, "train", parent_job_id=pending)
    for job_id in (held, pending):
        post(new, owner, job_id, "pause")
        assert prefect_state(new, job_id) == ("PAUSED", "Suspended")
        assert new.job(owner, job_id)["status"] == "Paused"
        assert log_of(new, owner, job_id).endswith("\nPaused by the user.\nError EOF\n")
    post(new, owner, held, "resume")
    assert prefect_state(new, held) == ("SCHEDULED", "AwaitingParent")
    assert "paused" in new.job(owner, held)["result"]["message"]
    post(new, owner, pending, "resume")
    assert prefect_state(new, pending) == ("SCHEDULED", "Resuming")
    new.finish(pending)
    poll(lambda: prefect_state(new, held)[1] == "Scheduled", "the child", 30)


def test_a_resumed_job_that_is_queued_can_be_stopped_again(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    new.facade.prefect.client.patch(f"flow_runs/{job_id}", json={"infrastructure_pid": "123"}).raise_for_status()
    post(new, owner, job_id, "pause")
    suspend(new, job_id)
    new.wait(owner, job_id, "Paused")
    for _ in range(2):
        post(new, owner, job_id, "resume")
        post(new, owner, job_id, "pause")
        assert prefect_state(new, job_id) == ("PAUSED", "Suspended")
    post(new, owner, job_id, "resume")
    post(new, owner, job_id, "cancel")
    assert prefect_state(new, job_id)[0] == "CANCELLED" and new.job(owner, job_id)["status"] == "Canceled"


def test_a_job_given_back_to_the_queue_is_cancelled_at_once(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    new.facade.prefect.client.patch(f"flow_runs/{job_id}", json={"infrastructure_pid": "123"}).raise_for_status()
    new.facade.prefect.move(job_id, "SCHEDULED", "AwaitingRetry", "The worker w was lost.")
    poll(lambda: "The worker w was lost" in new.job(owner, job_id)["result"]["message"], "the reason", 30)
    post(new, owner, job_id, "cancel")
    assert prefect_state(new, job_id)[0] == "CANCELLED"


def test_children_of_a_cancelled_job_are_cancelled_with_it(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    parent = new.start(owner, "train")
    child = new.start(owner, "prune", parent_job_id=parent)
    grandchild = new.start(owner, "retrain", parent_job_id=child)
    post(new, owner, parent, "cancel")
    assert parent in new.job(owner, child)["result"]["message"]
    told = new.job(owner, grandchild)
    assert told["status"] == "Canceled" and child in told["result"]["message"] and parent in told["result"]["message"]
    poll(lambda: prefect_state(new, grandchild)[0] == "CANCELLED", "Prefect to know", 30)


def test_a_cancelled_job_can_be_resumed_but_not_one_that_is_on_its_way(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    post(new, owner, job_id, "cancel")
    refused = new.client.post(f"{owner}/jobs/{job_id}:resume", content="{}")
    assert refused.status_code == 400 and "Wait" in refused.json()["error_desc"]
    new.facade.prefect.move(job_id, "CANCELLED")
    new.wait(owner, job_id, "Canceled")
    post(new, owner, job_id, "resume")
    assert prefect_state(new, job_id) == ("SCHEDULED", "Resuming")


def test_resume_is_refused_where_the_parent_is_no_more(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    parent = new.start(owner, "train")
    child = new.start(owner, "retrain", parent_job_id=parent)
    post(new, owner, child, "pause")
    new.facade.prefect.move(parent, "FAILED", message="boom")
    new.wait(owner, parent, "Error")
    refused = new.client.post(f"{owner}/jobs/{child}:resume", content="{}")
    assert refused.status_code == 400 and parent in refused.json()["error_desc"]
    assert new.job(owner, child)["status"] == "Paused"


def test_suspended_in_prefect_is_paused_here(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    job_id = running(new, owner)
    suspend(new, job_id)
    new.wait(owner, job_id, "Paused")
    post(new, owner, job_id, "resume")
    assert prefect_state(new, job_id) == ("SCHEDULED", "Resuming")


def test_stops_from_all_sides_at_once_end_in_one_state(new: Member) -> None:
    owner = f"experiments/{new.ready()}"
    for _ in range(3):
        parent = new.start(owner, "train")
        jobs = [new.start(owner, "train", parent_job_id=parent) for _ in range(3)]
        asked = [(job_id, verb) for job_id in (*jobs, parent) for verb in ("pause", "cancel", "pause")]
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda ask: new.client.post(f"{owner}/jobs/{ask[0]}:{ask[1]}").status_code, asked))
        assert set(answers) <= {200, 201, 404}, answers
        for job_id in (*jobs, parent):
            assert new.wait(owner, job_id, "Canceled") and prefect_state(new, job_id)[0] == "CANCELLED"

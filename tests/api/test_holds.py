"""Jobs that wait: for parents, for data, for the quota of their org."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from facade_support import Member, image_tar, make_tar
from prefect_trainyard.api.catalog import Catalog
from prefect_trainyard.api.catalog.models import Job, utc_now
from prefect_trainyard.api.services.accounts.orgs import set_quota
from prefect_trainyard.api.services.jobs.settling import DECIDED
from prefect_trainyard.api.services.projection.adoption import TICK
from prefect_trainyard.schemas.states import JobState
from support import poll


def state_of(member: Member, job_id: str) -> str:
    return str(member.facade.prefect.run(job_id)["state"]["name"])


def message_of(member: Member, owner: str, job_id: str) -> str:
    return str(member.job(owner, job_id)["result"]["detailed_status"]["message"])


class SlowUpload:
    """An upload that has begun and ends when it is told to."""

    def __init__(self, member: Member, dataset_id: str, archive: bytes) -> None:
        self._go = threading.Event()
        self._answer: Any = None
        boundary = "x" * 20
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.tar"\r\n\r\n'.encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        def content() -> Iterator[bytes]:
            yield head
            self._go.wait(30)
            yield archive + tail

        def send() -> None:
            self._answer = member.client.post(
                f"datasets/{dataset_id}:upload",
                content=content(),
                headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            )

        self._thread = threading.Thread(target=send)
        self._thread.start()
        poll(
            lambda: member.client.get(f"datasets/{dataset_id}").json()["status"] == "in_progress",
            "the upload to begin",
            10,
        )

    def finish(self) -> int:
        self._go.set()
        self._thread.join(30)
        return int(self._answer.status_code)


def test_a_job_waits_for_data_that_are_being_uploaded(ann: Member) -> None:
    dataset_id = ann.dataset()
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id])}"
    upload = SlowUpload(ann, dataset_id, image_tar(["cat", "dog"]))
    job_id = ann.start(owner, "train")
    assert state_of(ann, job_id) == "AwaitingData" and ann.job(owner, job_id)["status"] == "Pending"
    said = message_of(ann, owner, job_id)
    assert dataset_id in said and "uploaded" in said
    assert upload.finish() == 201
    poll(lambda: state_of(ann, job_id) == "Scheduled", "the release", 30)
    assert "queue" in message_of(ann, owner, job_id) or "worker" in message_of(ann, owner, job_id)


@pytest.mark.parametrize(
    ("archive", "words"),
    [(image_tar(["cat"]), "two classes"), (make_tar({"images/cat/0.png": b""}), "no files"), (b"no tar", "no files")],
    ids=["one class", "an empty image", "no archive"],
)
def test_data_that_come_and_do_not_do_fail_the_job_with_the_reason(ann: Member, archive: bytes, words: str) -> None:
    dataset_id = ann.dataset()
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id])}"
    upload = SlowUpload(ann, dataset_id, archive)
    job_id = ann.start(owner, "train")
    child = ann.start(owner, "export", parent_job_id=job_id)
    upload.finish()
    job = ann.wait(owner, job_id, "Error")
    assert dataset_id in job["result"]["message"] and words in job["result"]["message"]
    assert job_id in ann.wait(owner, child, "Error")["result"]["message"]
    poll(lambda: state_of(ann, child) == "Failed", "Prefect to know", 30)
    assert ann.client.get(f"{owner}/jobs/{job_id}/logs").text.endswith("\nError EOF\n")


def test_waiting_says_what_the_parent_does(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    parent = ann.start(owner, "train")
    child = ann.start(owner, "evaluate", parent_job_id=parent)
    assert parent in message_of(ann, owner, child) and "pending" in message_of(ann, owner, child)
    ann.facade.prefect.move(parent, "RUNNING")
    ann.wait(owner, parent, "Running")
    assert "running, 0%" in message_of(ann, owner, child)
    ann.facade.prefect.move(parent, "PAUSED", "Suspended")
    poll(lambda: "paused" in message_of(ann, owner, child), "the child to say that its parent is paused", 30)
    assert state_of(ann, child) == "AwaitingParent"


def test_parents_of_other_experiments_and_data_sets_of_the_org_do(ann: Member, facade: Any) -> None:
    dataset_id = ann.filled()
    first = f"experiments/{ann.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)}"
    second = f"experiments/{ann.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)}"
    convert = ann.start(f"datasets/{dataset_id}", "convert")
    train = ann.start(first, "train", parent_job_id=convert)
    evaluate = ann.start(second, "evaluate", parent_job_id=train)
    assert {state_of(ann, train), state_of(ann, evaluate)} == {"AwaitingParent"}
    ann.facade.prefect.move(convert, "FAILED", message="broken image")
    told = ann.wait(second, evaluate, "Error")["result"]["message"]
    assert train in told and convert in told and "broken image" in told
    eve = facade.member(user="eve")
    mine = ann.start(first, "train")
    refused = eve.post_job(f"experiments/{eve.ready()}", "evaluate", parent_job_id=mine)
    assert refused.status_code == 404 and refused.json()["error_desc"].startswith("Parent job not found")


def test_deleted_parents_are_refused(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    parent = ann.start(owner, "train")
    ann.finish(parent)
    ann.wait(owner, parent, "Done")
    assert ann.client.delete(f"{owner}/jobs/{parent}").status_code == 200
    for gone in (parent, str(uuid4())):
        assert ann.post_job(owner, "evaluate", parent_job_id=gone).status_code == 404


def test_no_job_becomes_its_own_ancestor(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    first = ann.start(owner, "train")
    second = ann.start(owner, "train", parent_job_id=first)
    third = ann.start(owner, "train", parent_job_id=second)
    assert ann.client.post(f"{owner}/jobs/{first}:cancel").status_code == 200
    for parent in (first, second, third):
        answer = ann.client.post(f"{owner}/jobs/{first}:resume", content=json.dumps({"parent_job_id": parent}))
        assert answer.status_code == 400 and "starts from this one" in answer.json()["error_desc"], answer.text
    assert ann.job(owner, first)["status"] == "Canceled" and ann.job(owner, first)["parent_id"] is None


def test_a_whole_tree_is_told_why_it_ends(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    chain = [ann.start(owner, "train")]
    for _ in range(60):  # more than Prefect moves at once
        chain.append(ann.start(owner, "train", parent_job_id=chain[-1]))
    branch = ann.start(owner, "evaluate", parent_job_id=chain[3])
    ann.facade.prefect.move(chain[0], "RUNNING")
    ann.facade.prefect.move(chain[0], "CRASHED", message="out of memory")
    for parent, job_id in (*pairwise(chain), (chain[3], branch)):
        told = ann.wait(owner, job_id, "Error")["result"]["message"]
        assert parent in told and chain[0] in told and "out of memory" in told
    poll(lambda: {state_of(ann, i) for i in (*chain[1:], branch)} == {"Failed"}, "Prefect to know", 30)
    log = ann.client.get(f"{owner}/jobs/{chain[-1]}/logs").text
    assert chain[-2] in log and log.endswith("\nError EOF\n")


def test_an_end_that_was_decided_just_before_a_crash_reaches_prefect(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    child = ann.start(owner, "train", parent_job_id=ann.start(owner, "train"))

    async def decide() -> None:
        catalog = Catalog(ann.facade.settings.database_url)
        async with catalog.writing() as session:
            job = await session.get_one(Job, UUID(child))
            job.state, job.state_name, job.message, job.ended_at = JobState.FAILED, DECIDED, "lost", utc_now()
            job.state_at += TICK  # or a late event of the start would be news
        await catalog.close()

    asyncio.run(decide())
    poll(lambda: state_of(ann, child) == "Failed", "Prefect to know", 30)
    assert ann.facade.prefect.run(child)["state"]["message"] == "lost"
    assert ann.job(owner, child)["status"] == "Error"
    assert ann.client.get(f"{owner}/jobs/{child}/logs").text.endswith("lost\nError EOF\n")


def test_the_last_of_a_long_chain_of_done_jobs_starts(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    chain = [ann.start(owner, "train")]
    for _ in range(4):
        chain.append(ann.start(owner, "train", parent_job_id=chain[-1]))
    for job_id, child in pairwise(chain):
        assert state_of(ann, child) == "AwaitingParent"
        ann.finish(job_id)
        poll(lambda c=child: state_of(ann, c) == "Scheduled", "the release of the child", 30)


def test_several_actions_in_one_post_make_a_chain(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    train = ann.start(owner, "train")
    body = {"actions": ["prune", "retrain", "evaluate", "export"], "parent_job_id": train}
    answer = ann.client.post(f"{owner}/jobs", content=json.dumps(body))
    assert answer.status_code == 201, answer.text
    prune, retrain, evaluate, export = answer.json()
    parents = [ann.job(owner, job_id)["parent_id"] for job_id in (prune, retrain, evaluate, export)]
    assert parents == [train, prune, retrain, retrain]
    assert ann.facade.prefect.run(evaluate)["parameters"]["parent_job_id"] == retrain
    assert {state_of(ann, i) for i in answer.json()} == {"AwaitingParent"}


def test_actions_take_their_specs_by_name_and_the_first_starts(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    spec = {"train": {"train_config": {"runner": {"max_epochs": 7}}}}
    answer = ann.client.post(
        f"{owner}/jobs", content=json.dumps({"actions": ["train", "evaluate"], "specs": {"train": spec}})
    )
    train, evaluate = answer.json()
    assert (ann.job(owner, train)["specs"], ann.job(owner, evaluate)["specs"]) == (spec, {})
    assert (state_of(ann, train), state_of(ann, evaluate)) == ("Scheduled", "AwaitingParent")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"actions": []},
        {"actions": ["train"], "action": "train"},
        {"actions": ["train", "fly"]},
        {"actions": ["train", "convert"]},
        {"actions": ["export", "train"]},
        {"actions": ["train", "inference"]},
        {"actions": ["train"], "specs": {"evaluate": {}}},
        {"actions": ["train"], "specs": {"train": 5}},
        {"actions": ["train", "evaluate"], "specs": {"train": {"cluster": "mine"}}},
        {"actions": ["train", "evaluate"], "specs": {"evaluate": {"__prefect_kind": "json"}}},
        {"actions": ["train"] * 21},
    ],
    ids=json.dumps,
)
def test_one_refused_action_leaves_nothing_of_all(ann: Member, body: dict[str, Any]) -> None:
    owner = f"experiments/{ann.ready()}"
    before, runs = ann.facade.files_of(ann.org), ann.facade.prefect.count_runs()
    answer = ann.client.post(f"{owner}/jobs", content=json.dumps(body))
    assert answer.status_code == 400, answer.text
    assert ann.client.get(f"{owner}/jobs").json() == []
    assert (ann.facade.files_of(ann.org), ann.facade.prefect.count_runs()) == (before, runs)


def test_the_quota_of_running_jobs_lets_the_first_ones_go(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    set_quota(ann.facade.settings.database_url, ann.org, max_running=2)
    first, second, third, low, high = (
        ann.start(owner, "train", **fields) for fields in ({}, {}, {}, {"priority": "low"}, {"priority": "high"})
    )
    assert [state_of(ann, i) for i in (first, second, third, low, high)] == ["Scheduled"] * 2 + ["AwaitingQuota"] * 3
    assert "2 of 2 jobs" in message_of(ann, owner, third)
    ann.finish(first)
    poll(lambda: state_of(ann, high) == "Scheduled", "the job of high priority", 30)
    assert [state_of(ann, i) for i in (third, low)] == ["AwaitingQuota"] * 2
    ann.client.post(f"{owner}/jobs/{second}:cancel")
    poll(lambda: state_of(ann, third) == "Scheduled", "the older job", 30)
    assert state_of(ann, low) == "AwaitingQuota"
    set_quota(ann.facade.settings.database_url, ann.org, max_running=None)
    poll(lambda: state_of(ann, low) == "Scheduled", "the last job when the quota goes", 30)


def test_a_child_whose_parent_is_done_still_waits_for_the_quota(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    set_quota(ann.facade.settings.database_url, ann.org, max_running=1)
    parent = ann.start(owner, "train")
    child = ann.start(owner, "evaluate", parent_job_id=parent)
    other = ann.start(owner, "train")
    assert (state_of(ann, child), state_of(ann, other)) == ("AwaitingParent", "AwaitingQuota")
    ann.finish(parent)
    poll(lambda: state_of(ann, child) == "Scheduled", "the child, which is older", 30)
    assert state_of(ann, other) == "AwaitingQuota"

"""Every job says what it waits for."""

from __future__ import annotations

import json
from pathlib import Path

from facade_support import Member, Prefect, serve
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.attempts import OWNER_LABEL
from support import poll


def message_of(member: Member, owner: str, job_id: str) -> str:
    return str(member.job(owner, job_id)["result"]["detailed_status"]["message"])


def heartbeat(member: Member, name: str, interval_s: int = 30) -> None:
    body = {"name": name, "heartbeat_interval_seconds": interval_s}
    member.facade.prefect.client.post("work_pools/trainyard/workers/heartbeat", json=body).raise_for_status()


def empty_queue(member: Member) -> None:
    """Take everything out of the queue that other tests left there."""
    client = member.facade.prefect.client
    due = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}}, "state": {"type": "CANCELLED"}}
    while client.post("flow_runs/bulk_set_state", json=due).json()["results"]:
        pass


def test_a_pending_job_says_how_many_are_ahead_and_whether_there_is_a_worker(ann: Member) -> None:
    empty_queue(ann)
    owner = f"experiments/{ann.ready()}"
    first = ann.start(owner, "train")
    poll(lambda: "ahead" not in message_of(ann, owner, first), "the queue to be empty", 30)
    assert "none is online" in message_of(ann, owner, first)
    second, third, low, high = (
        ann.start(owner, "train", **fields) for fields in ({}, {}, {"priority": "low"}, {"priority": "high"})
    )
    assert "1 job is ahead" not in message_of(ann, owner, high)
    for job_id, ahead in ((first, "1 job is"), (second, "2 jobs are"), (third, "3 jobs are"), (low, "4 jobs are")):
        assert f"{ahead} ahead" in message_of(ann, owner, job_id)
    listed = {job["id"]: job["result"]["message"] for job in ann.client.get(f"{owner}/jobs").json()}
    assert listed == {job_id: message_of(ann, owner, job_id) for job_id in (first, second, third, low, high)}
    assert ann.facade.prefect.run(high)["work_queue_name"] == "high"
    heartbeat(ann, "w1")
    poll(lambda: "none is online" not in message_of(ann, owner, high), "the worker to be seen", 30)
    assert "first in the queue" in message_of(ann, owner, high)
    shown = ann.client.get(owner).json()["jobs"]
    assert {job["id"]: job["result"]["message"] for job in shown} == {
        job_id: message_of(ann, owner, job_id) for job_id in listed
    }


def test_a_job_that_lost_its_worker_says_so_while_it_waits(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.move(job_id, "RUNNING")
    ann.wait(owner, job_id, "Running")
    ann.facade.prefect.move(job_id, "SCHEDULED", "AwaitingRetry", "Attempt 1 of 3 lost its worker.")
    ann.wait(owner, job_id, "Pending")
    assert "Attempt 1 of 3 lost its worker." in message_of(ann, owner, job_id)
    ann.facade.prefect.move(job_id, "PENDING", message="Waiting for the old process to end.")
    poll(lambda: message_of(ann, owner, job_id) == "Waiting for the old process to end.", "the worker's words", 30)
    ann.facade.prefect.move(job_id, "RUNNING")
    poll(lambda: message_of(ann, owner, job_id) == "Running.", "the job to run", 30)


def test_a_job_that_a_worker_has_taken_is_not_in_the_queue(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.facade.prefect.client.patch(f"flow_runs/{job_id}/labels", json={OWNER_LABEL: "m 1:2"}).raise_for_status()
    ann.facade.prefect.move(job_id, "PENDING")
    poll(lambda: "A worker has taken the job" in message_of(ann, owner, job_id), "the job to be taken", 30)


def test_a_facade_that_was_away_reads_what_was_reported_meanwhile(prefect_server: Prefect, tmp_path: Path) -> None:
    settings = ApiSettings(home=tmp_path, prefect_api_url=prefect_server.api_url, free_min_bytes=0)
    first = serve(settings, prefect_server)
    member = next(first).member()
    owner = f"experiments/{member.ready()}"
    job_id = member.start(owner, "train")
    prefect_server.move(job_id, "RUNNING")
    member.wait(owner, job_id, "Running")
    first.close()
    lines = [
        {
            "job_id": job_id,
            "at": f"2026-01-01T00:00:0{n}+00:00",
            "fraction": n / 4,
            "message": f"epoch {n} of 4",
            "epoch": {"epoch": n, "max_epoch": 4, "metrics": {"loss": 1 / n}, "seconds": 1.0},
        }
        for n in (1, 2, 3)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"job_id": "cut o'
    member.facade.storage.write_bytes(f"{layout.job(member.org, job_id)}/status.json", text.encode())
    second = serve(settings, prefect_server)
    again = next(second).member(org=member.org)
    poll(lambda: again.job(owner, job_id)["result"].get("epoch") == 3, "the epochs to be read", 30)
    result = again.job(owner, job_id)["result"]
    assert result["graphical"][0]["values"] == {"1": 1.0, "2": 0.5, "3": 1 / 3}
    assert result["message"] == "epoch 3 of 4"
    second.close()

"""Jobs that take longer than they may, and quotas of storage."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from facade_support import Member, image_tar
from prefect_trainyard.api.services.accounts.orgs import list_orgs, set_quota
from prefect_trainyard.schemas.errors import InvalidInput, NotFound
from support import poll


def state_of(member: Member, job_id: str) -> tuple[str, str]:
    state = member.facade.prefect.run(job_id)["state"]
    return state["type"], state["name"]


def test_limits_are_kept_and_shown_only_where_they_were_given(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    expires = datetime.now(UTC) + timedelta(days=1)
    given = {"priority": "high", "max_attempts": 5, "max_run_time": 3600, "max_pending_time": 60.5}
    job_id = ann.start(owner, "train", **given, expires_at=expires.timestamp())
    shown = ann.job(owner, job_id)
    assert {name: shown[name] for name in given} == given
    assert datetime.fromisoformat(shown["expires_at"]).replace(tzinfo=UTC) == expires
    run = ann.facade.prefect.run(job_id)
    assert run["work_queue_name"] == "high" and run["job_variables"]["max_attempts"] == 5
    plain = ann.job(owner, ann.start(owner, "train", expires_at=expires.isoformat()))
    assert set(shown) - set(plain) == set(given)
    assert ann.facade.prefect.run(plain["id"])["work_queue_name"] == "default"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", "urgent"),
        ("priority", 1),
        ("max_attempts", 0),
        ("max_attempts", 21),
        ("max_attempts", 1.5),
        ("max_run_time", 0),
        ("max_run_time", -1),
        ("max_run_time", "1 h"),
        ("max_pending_time", 1e12),
        ("expires_at", 5),
        ("expires_at", "yesterday"),
        ("expires_at", "2020-01-01T00:00:00"),
        ("expires_at", True),
        ("expires_at", 1e300),
        ("expires_at", "9999-12-31T23:59:59-12:00"),
    ],
)
def test_bad_limits_are_refused_with_their_path(ann: Member, field: str, value: Any) -> None:
    owner = f"experiments/{ann.ready()}"
    answer = ann.post_job(owner, "train", **{field: value})
    assert answer.status_code == 400 and answer.json()["error_desc"].startswith(f"{field}: "), answer.text
    assert ann.client.get(f"{owner}/jobs").json() == []


def test_a_job_that_is_pending_for_too_long_fails_with_the_reason(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train", max_pending_time=0.5)
    child = ann.start(owner, "evaluate", parent_job_id=job_id, max_pending_time=0.1)
    job = ann.wait(owner, job_id, "Error")
    assert "max_pending_time" in job["result"]["message"] and state_of(ann, job_id) == ("FAILED", "TimedOut")
    log = ann.client.get(f"{owner}/jobs/{job_id}/logs").text
    assert "max_pending_time" in log and log.endswith("\nError EOF\n")
    # held back is not pending: it ends with its parent, not before
    assert job_id in ann.wait(owner, child, "Error")["result"]["message"]


def test_a_job_that_runs_for_too_long_is_stopped_by_its_worker(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train", max_run_time=0.5)
    ann.facade.prefect.move(job_id, "RUNNING")
    poll(lambda: state_of(ann, job_id) == ("CANCELLING", "TimingOut"), "the worker to be asked", 30)
    reason = ann.facade.prefect.run(job_id)["state"]["message"]
    assert "max_run_time" in reason
    poll(lambda: reason in ann.job(owner, job_id)["result"]["message"], "the reason to be shown", 30)
    ann.facade.prefect.move(job_id, "FAILED", "TimedOut", reason)
    assert ann.wait(owner, job_id, "Error")["result"]["message"] == reason


def test_expiry_ends_whatever_a_job_does(ann: Member) -> None:
    owner = f"experiments/{ann.ready()}"
    soon = (datetime.now(UTC) + timedelta(seconds=4)).timestamp()
    parent = ann.start(owner, "train")
    held = ann.start(owner, "train", parent_job_id=parent, expires_at=soon)
    pending, running, paused = (ann.start(owner, "train", expires_at=soon) for _ in range(3))
    ann.client.post(f"{owner}/jobs/{paused}:cancel")
    assert state_of(ann, paused) == ("PAUSED", "Suspended")
    ann.facade.prefect.move(running, "RUNNING")
    for job_id in (held, pending, paused):
        assert "expires_at" in ann.wait(owner, job_id, "Error")["result"]["message"]
        assert state_of(ann, job_id) == ("FAILED", "TimedOut")
    poll(lambda: state_of(ann, running) == ("CANCELLING", "TimingOut"), "the worker to be asked", 30)
    assert ann.job(owner, parent)["status"] == "Pending"


def test_an_org_over_its_quota_of_storage_starts_and_uploads_nothing(ann: Member) -> None:
    url = ann.facade.settings.database_url
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    ann.finish(job_id)
    ann.wait(owner, job_id, "Done")

    def used() -> int:
        [info] = [info for info in list_orgs(url) if info.name == ann.org]
        return info.storage_bytes

    poll(lambda: used() > 300_000, "the size of the job", 30)
    set_quota(url, ann.org, max_storage_bytes=used() + 100)
    dataset_id = ann.dataset()
    archive = image_tar(["cat", "dog"])
    assert len(archive) > 100
    refused = ann.upload(dataset_id, archive)
    assert refused.status_code == 403 and str(used() + 100) in refused.json()["error_desc"]
    assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "not_present"
    set_quota(url, ann.org, max_storage_bytes=used())
    runs = ann.facade.prefect.count_runs()
    refused = ann.post_job(owner, "train")
    assert refused.status_code == 403 and "quota" in refused.json()["error_desc"]
    assert ann.facade.prefect.count_runs() == runs
    set_quota(url, ann.org, max_storage_bytes=None)
    assert ann.upload(dataset_id, archive).status_code == 201
    before = used()
    assert ann.client.delete(f"datasets/{dataset_id}").status_code == 200
    assert used() < before


def test_quotas_are_checked_and_kept(ann: Member) -> None:
    url = ann.facade.settings.database_url
    info = set_quota(url, ann.org, max_running=3, keep_days=1.5)
    assert (info.max_running, info.keep_days, info.max_storage_bytes) == (3, 1.5, None)
    assert set_quota(url, ann.org, keep_jobs=2).max_running == 3
    for quota in ({"max_running": 0}, {"max_storage_bytes": -1}, {"keep_days": -0.5}):
        with pytest.raises(InvalidInput):
            set_quota(url, ann.org, **quota)
    with pytest.raises(NotFound):
        set_quota(url, "nosuchorg", max_running=1)


def test_the_document_tells_of_the_limits(ann: Member) -> None:
    document = ann.client.get(f"{ann.facade.url}/openapi.json").json()
    body = json.dumps(document["paths"]["/api/v1/orgs/{org_name}/experiments/{experiment_id}/jobs"]["post"])
    assert all(name in body for name in ("priority", "max_run_time", "expires_at", "actions"))

"""Requests that come several times: done once, answered alike."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, Member, image_tar, serve
from prefect_trainyard.api import idempotency
from prefect_trainyard.api.catalog import Catalog
from prefect_trainyard.api.catalog.models import IdempotencyKey, utc_now
from prefect_trainyard.api.services.accounts.idempotency import LIFETIME, IdempotencyKeys
from sqlalchemy import update

KEY = "Idempotency-Key"


def post(member: Member, path: str, body: dict[str, Any], key: str) -> httpx.Response:
    return member.client.post(path, content=json.dumps(body), headers={KEY: key})


def at_once(member: Member, path: str, body: dict[str, Any], times: int = 100) -> list[httpx.Response]:
    key = str(uuid4())
    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(lambda _: post(member, path, body, key), range(times)))


def replays(answers: list[httpx.Response]) -> int:
    return sum(answer.headers.get("Idempotency-Replayed") == "true" for answer in answers)


def test_a_hundred_posts_at_once_with_one_key_make_one_job(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    runs = ann.facade.prefect.count_runs()
    answers = at_once(ann, f"{owner}/jobs", {"action": "train"})
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert replays(answers) == 99
    assert ann.facade.prefect.count_runs() == runs + 1
    assert [job["id"] for job in ann.client.get(f"{owner}/jobs").json()] == [answers[0].json()]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("datasets", {"type": "image_classification", "format": "classification_pyt"}),
        ("experiments", {"network_arch": "classification_pyt", "encryption_key": "k"}),
    ],
)
def test_a_hundred_posts_at_once_with_one_key_make_one_thing(ann, kind: str, body: dict[str, Any]) -> None:
    answers = at_once(ann, kind, body)
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert [thing["id"] for thing in ann.client.get(kind).json()] == [answers[0].json()["id"]]


def test_replayed_answer_has_the_media_type_and_body_of_the_first(ann) -> None:
    body = {"type": "image_classification", "format": "raw", "name": "first"}
    first, again = (post(ann, "datasets", body, "two-tries") for _ in range(2))
    assert again.status_code == 201 and again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert KEY not in first.headers and "Idempotency-Replayed" not in first.headers
    # What became of the thing meanwhile does not change the answer.
    ann.client.patch(f"datasets/{first.json()['id']}", content=json.dumps({"name": "second"}))
    assert post(ann, "datasets", body, "two-tries").content == first.content


def test_a_key_is_for_one_request_only(ann) -> None:
    body = {"type": "image_classification", "format": "raw"}
    assert post(ann, "datasets", body, "taken").status_code == 201
    for path, other in (
        ("datasets", {**body, "name": "other"}),
        ("datasets?x=1", body),
        ("experiments", {"network_arch": "classification_pyt"}),
    ):
        refused = post(ann, path, other, "taken")
        assert refused.status_code == 422, path
        assert "Idempotency-Key" in refused.json()["error_desc"]
    assert len(ann.client.get("datasets").json()) == 1 and ann.client.get("experiments").json() == []


def test_keys_of_other_users_and_orgs_are_their_own(facade: Facade) -> None:
    ann = facade.member()
    bob, eve = facade.member(org=ann.org, user="bob"), facade.member()
    body = {"type": "image_classification", "format": "raw"}
    ids = {post(member, "datasets", body, "same").json()["id"] for member in (ann, bob, eve)}
    assert len(ids) == 3


@pytest.mark.parametrize("key", ["", "with space", "k" * 256, "tab\tin", "höher".encode().decode("latin-1")])
def test_refuses_a_bad_key(ann, key: str) -> None:
    answer = ann.client.post("datasets", content=b"{}", headers=[(KEY.encode(), key.encode("latin-1"))])
    assert answer.status_code == 400 and KEY in answer.json()["error_desc"]


def test_refuses_two_keys(ann) -> None:
    answer = ann.client.post("datasets", content=b"{}", headers=[(KEY, "one"), (KEY, "two")])
    assert answer.status_code == 400


def test_longest_key_is_taken(ann) -> None:
    body = {"type": "image_classification", "format": "raw"}
    assert post(ann, "datasets", body, "~" * 255).status_code == 201


def test_a_refused_request_can_be_put_right_under_its_key(ann) -> None:
    refused = post(ann, "datasets", {"type": "image_classification", "format": "nothing"}, "again")
    assert refused.status_code == 400
    assert post(ann, "datasets", {"type": "image_classification", "format": "raw"}, "again").status_code == 201


def test_strangers_are_told_so_and_leave_no_key(facade: Facade, ann) -> None:
    path = f"{facade.url}/api/v1/orgs/{ann.org}/datasets"
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        answer = httpx.post(path, content=b"{}", headers={KEY: "mine", **headers})
        assert answer.status_code == 401
    assert post(ann, "datasets", {"type": "image_classification", "format": "raw"}, "mine").status_code == 201


def test_login_needs_no_key_and_keeps_none(facade: Facade, ann) -> None:
    key = facade.key(ann.org, "ann")
    bodies = [
        httpx.post(f"{facade.url}/api/v1/login", json={"ngc_api_key": key}, headers={KEY: "login"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in bodies] == [201, 201]
    assert bodies[0].json()["token"] != bodies[1].json()["token"]


def test_too_large_a_body_is_refused_as_without_a_key(ann) -> None:
    answer = ann.client.post("datasets", content=b" " * 200_000, headers={KEY: "large"})
    assert answer.status_code == 413


def test_upload_is_taken_once(ann) -> None:
    dataset_id = ann.dataset()
    archive = image_tar(("cat", "dog"))

    def upload() -> httpx.Response:
        return ann.client.post(
            f"datasets/{dataset_id}:upload", files={"file": ("set.tar.gz", archive)}, headers={KEY: "upload"}
        )

    first, again = upload(), upload()
    assert (first.status_code, again.status_code) == (201, 201) and again.json() == first.json()
    assert again.headers["Idempotency-Replayed"] == "true"


def test_cancel_under_a_key_is_answered_again(ann) -> None:
    owner = f"experiments/{ann.ready()}"
    job_id = ann.start(owner, "train")
    answers = [post(ann, f"{owner}/jobs/{job_id}:cancel", {}, "stop") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200] and replays(answers) == 1


def forget_the_answer(facade: Facade, org: str, *, locked_for_s: float) -> None:
    """Leave the key as a facade does that is killed before it stores the answer."""

    async def run() -> None:
        catalog = Catalog(facade.settings.database_url)
        async with catalog.writing() as session:
            values = {"status_code": None, "answer": None, "locked_until": utc_now() + timedelta(seconds=locked_for_s)}
            await session.execute(update(IdempotencyKey).where(IdempotencyKey.org == org).values(**values))
        await catalog.close()

    asyncio.run(run())


@pytest.mark.parametrize("locked_for_s", [-1.0, 0.5])
def test_try_after_a_crash_finds_what_the_first_one_made(ann, locked_for_s: float) -> None:
    dataset_id = ann.filled()
    bodies = {
        "datasets": {"type": "image_classification", "format": "raw"},
        "experiments": {"network_arch": "classification_pyt", "train_datasets": [dataset_id]},
    }
    for path, body in bodies.items():
        first = post(ann, path, body, f"crash-{path}")
        forget_the_answer(ann.facade, ann.org, locked_for_s=locked_for_s)
        again = post(ann, path, body, f"crash-{path}")
        assert (again.status_code, again.json()) == (201, first.json())
        assert "Idempotency-Replayed" not in again.headers
    owner = f"experiments/{ann.client.get('experiments').json()[0]['id']}"
    runs = ann.facade.prefect.count_runs()
    first = post(ann, f"{owner}/jobs", {"action": "train"}, "crash-job")
    log = ann.client.get(f"{owner}/jobs/{first.json()}/logs").text
    forget_the_answer(ann.facade, ann.org, locked_for_s=locked_for_s)
    again = post(ann, f"{owner}/jobs", {"action": "train"}, "crash-job")
    assert (again.status_code, again.json()) == (201, first.json())
    assert ann.facade.prefect.count_runs() == runs + 1
    assert ann.client.get(f"{owner}/jobs/{first.json()}/logs").text == log
    assert len(ann.client.get("datasets").json()) == 2 and len(ann.client.get("experiments").json()) == 1


def test_a_try_waits_for_the_one_that_is_at_work(ann, monkeypatch) -> None:
    monkeypatch.setattr(idempotency, "WAIT_S", 0.5)
    body = {"type": "image_classification", "format": "raw"}
    post(ann, "datasets", body, "slow")
    forget_the_answer(ann.facade, ann.org, locked_for_s=60)
    busy = post(ann, "datasets", body, "slow")
    assert busy.status_code == 409 and int(busy.headers["Retry-After"]) > 0
    assert len(ann.client.get("datasets").json()) == 1


def test_keys_are_forgotten_when_they_are_old(ann) -> None:
    body = {"type": "image_classification", "format": "raw"}

    async def run() -> tuple[int, int]:
        catalog = Catalog(ann.facade.settings.database_url)
        keys = IdempotencyKeys(catalog)
        before = await keys.expired()
        async with catalog.writing() as session:
            old = {"created_at": utc_now() - 2 * LIFETIME, "locked_until": utc_now() - LIFETIME}
            await session.execute(update(IdempotencyKey).where(IdempotencyKey.org == ann.org).values(**old))
        found = await keys.expired()
        await keys.expire()
        assert await keys.expired() == 0
        await catalog.close()
        return before, found

    post(ann, "datasets", body, "old")
    assert asyncio.run(run()) == (0, 1)
    assert "Idempotency-Replayed" not in post(ann, "datasets", body, "old").headers


def test_keys_survive_a_restart(facade: Facade, ann) -> None:
    owner = f"experiments/{ann.ready()}"
    first = post(ann, f"{owner}/jobs", {"action": "train"}, "restart")
    for again in serve(facade.settings, facade.prefect):
        path = f"{again.url}/api/v1/orgs/{ann.org}/{owner}/jobs"
        headers = {"Authorization": f"Bearer {ann.token}", KEY: "restart"}
        assert httpx.post(path, content=json.dumps({"action": "train"}), headers=headers).status_code == 422
        path = f"{again.url}/api/v1/users/{ann.user_id}/{owner}/jobs"
        answer = httpx.post(path, content=json.dumps({"action": "train"}), headers=headers)
        assert (answer.status_code, answer.json()) == (201, first.json())
    assert len(ann.client.get(f"{owner}/jobs").json()) == 1

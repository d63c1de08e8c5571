"""Who may call what: a walk over every route, foreign things, keys."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from uuid import UUID, uuid4

import httpx
import pytest
from prefect_trainyard.api.services.accounts.keys import create_key, list_keys, revoke_key, rotate_key, user_id_of
from prefect_trainyard.schemas.errors import InvalidInput, NotFound


def test_another_org_in_the_path_is_unknown_and_another_user_forbidden(facade) -> None:
    ann, eve = facade.member(), facade.member(user="eve")
    by_org = facade.member(org=ann.org, root="orgs")
    assert by_org.client.get("datasets").status_code == 200
    answers = {
        (answer.status_code, answer.content)
        for org in (eve.org, "nosuchorg")
        for answer in [by_org.client.get(f"{facade.url}/api/v1/orgs/{org}/datasets")]
    }
    assert len(answers) == 1 and answers.pop()[0] == 404
    for user_id in (eve.user_id, str(uuid4())):
        answer = ann.client.get(f"{facade.url}/api/v1/users/{user_id}/datasets")
        assert answer.status_code == 403
        assert answer.json()["error_code"] == 2
        assert "ann" in answer.json()["error_desc"]
    assert ann.client.get(f"{facade.url}/api/v1/users/not-a-uuid/datasets").status_code == 400


def test_both_roots_show_the_same_things_to_all_of_an_org(facade) -> None:
    ann = facade.member()
    bob = facade.member(org=ann.org, user="bob", root="orgs")
    dataset_id = ann.dataset()
    assert bob.client.get(f"datasets/{dataset_id}").json()["id"] == dataset_id
    assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "not_present"
    assert bob.client.get(f"datasets/{dataset_id}").json()["status"] == "starting"


def test_login_takes_json_without_a_content_type_and_refuses_every_wrong_key_alike(facade) -> None:
    member = facade.member()
    key = facade.key(member.org, "ann")
    granted = facade.login(key)
    assert UUID(granted["user_id"]) == user_id_of("ann")
    wrong = [key[:-1], key + "x", key[:11], key.swapcase(), "x", "ty-" + "A" * 43, "' OR '1'='1", "é\u2028"]
    answers = {
        httpx.post(f"{facade.url}/api/v1/login", content=json.dumps({"ngc_api_key": text})).text for text in wrong
    }
    assert len(answers) == 1
    assert json.loads(answers.pop())["error_code"] == 1
    for body in (
        b"",
        b"{}",
        b"[]",
        b'{"ngc_api_key": 5}',
        b'{"ngc_api_key": ""}',
        b"{",
        b'{"ngc_api_key":"' + b"x" * 1001 + b'"}',
    ):
        answer = httpx.post(f"{facade.url}/api/v1/login", content=body)
        assert answer.status_code == 400, body
        assert set(answer.json()) == {"error_desc", "error_code"}


def test_a_revoked_key_ends_its_tokens_and_leaves_those_of_other_keys(facade) -> None:
    url = facade.settings.database_url
    member = facade.member()
    other = facade.key(member.org, "ann")
    token = facade.login(other)["token"]
    assert member.client.get("datasets", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert revoke_key(url, other).prefix == other[:11]
    assert member.client.get("datasets", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert member.client.get("datasets").status_code == 200
    assert httpx.post(f"{facade.url}/api/v1/login", json={"ngc_api_key": other}).status_code == 401
    with pytest.raises(NotFound):
        revoke_key(url, other)


def test_a_rotated_key_works_beside_the_new_one_until_its_time_is_over(facade) -> None:
    url = facade.settings.database_url
    member = facade.member()
    old = facade.key(member.org, "ann", "5.5")
    token = {"Authorization": f"Bearer {facade.login(old)['token']}"}
    new = rotate_key(url, old, timedelta(hours=1))
    for key in (old, new):
        assert facade.login(key)["user_id"] == member.user_id
    kept = {info.prefix: info for info in list_keys(url)}
    assert kept[new[:11]].release == "5.5" and kept[new[:11]].org == member.org
    assert kept[old[:11]].active and kept[old[:11]].revoked_at is not None
    # a second rotation gives the old key no more time, and the time can be cut short
    rotate_key(url, old, timedelta(days=30))
    assert {info.prefix: info for info in list_keys(url)}[old[:11]].revoked_at == kept[old[:11]].revoked_at
    newest = rotate_key(url, old)
    assert httpx.post(f"{facade.url}/api/v1/login", json={"ngc_api_key": old}).status_code == 401
    assert member.client.get("datasets", headers=token).status_code == 401
    for key in (new, newest):
        facade.login(key)
    with pytest.raises(NotFound):
        rotate_key(url, old)
    with pytest.raises(InvalidInput):
        rotate_key(url, new, timedelta(days=365))


def test_an_api_key_is_the_credential_itself_where_a_dialect_takes_it(facade) -> None:
    member = facade.member()
    key = facade.key(member.org, "ann")
    me = f"{facade.url}/api/v1/users/me/"
    assert httpx.get(me, headers={"X-Api-Key": key}).status_code == 200
    for wrong in (key[:-1], key.swapcase(), member.token, "", "é", "' OR 1=1 --"):
        assert httpx.get(me, headers={"X-Api-Key": wrong.encode()}).status_code == 401
    # only there: elsewhere it opens nothing
    assert httpx.get(f"{facade.url}/api/v1/orgs/{member.org}/datasets", headers={"X-Api-Key": key}).status_code == 401
    revoke_key(facade.settings.database_url, key)
    assert httpx.get(me, headers={"X-Api-Key": key}).status_code == 401


def test_keys_are_stored_as_hashes_and_shown_by_prefix_and_last_use(facade) -> None:
    member = facade.member()
    key = facade.key(member.org, "carol", "5.5")
    info = next(info for info in list_keys(facade.settings.database_url) if key.startswith(info.prefix))
    assert (info.org, info.user, info.release, info.last_used_at) == (member.org, "carol", "5.5", None)
    facade.login(key)
    info = next(info for info in list_keys(facade.settings.database_url) if key.startswith(info.prefix))
    assert info.last_used_at is not None
    with sqlite3.connect(facade.settings.home / "catalog.db") as database:
        dump = "\n".join(database.iterdump())
    assert key not in dump and key[11:] not in dump


@pytest.mark.parametrize(
    ("org", "user", "release"),
    [
        ("", "ann", "5.3"),
        ("a b", "ann", "5.3"),
        ("../x", "ann", "5.3"),
        ("acme", "", "5.3"),
        ("acme", "a\nb", "5.3"),
        ("acme", "ann", "7"),
    ],
)
def test_refuses_names_that_cannot_be_orgs_or_users(tmp_path, org: str, user: str, release: str) -> None:
    with pytest.raises(InvalidInput):
        create_key(f"sqlite:///{tmp_path}/catalog.db", org, user, release)


def test_errors_leak_no_trace_and_answers_carry_safe_headers(facade) -> None:
    member = facade.member()
    for path in ("nothing/here", "datasets/x/y/z"):
        answer = member.client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error_desc", "error_code"}
    refused = member.client.post(f"experiments/{uuid4()}")
    assert refused.status_code == 405
    for answer in (refused, member.client.get("datasets"), httpx.get(f"{facade.url}/api/v1/health")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers

"""Who may call what: a walk over every route, foreign things, keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from prefect_trainyard.api.app import OPEN_PATHS
from prefect_trainyard.api.auth import Grant, Tokens, load_key
from prefect_trainyard.api.services.accounts.auth import create_key, list_keys, revoke_key, user_id_of
from prefect_trainyard.schemas.errors import InvalidInput, NotFound
from starlette.routing import BaseRoute, Mount

DOCUMENTATION = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/static-offline-docs"}


def all_routes(facade) -> set[tuple[str, str]]:
    """Return method and path of every route, from the served document and from the route tables."""
    found = {
        (method.upper(), path) for path, operations in facade.app.openapi()["paths"].items() for method in operations
    }
    # HEAD is served and not documented
    found |= {("HEAD", path) for method, path in found if path.endswith(":download")}
    return found


def flat(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if isinstance(inner, APIRouter):
            yield from flat(inner.routes)
        elif isinstance(route, Mount):
            yield from flat(list(route.routes))
        else:
            yield route


def filled_in(path: str, org: str, user_id: str) -> str:
    for name, value in {"org_name": org, "user_id": user_id, "action": "train"}.items():
        path = path.replace(f"{{{name}}}", value)
    for name in ("dataset_id", "experiment_id", "job_id"):
        path = path.replace(f"{{{name}}}", str(uuid4()))
    return path


def test_every_route_but_login_health_and_docs_asks_for_a_token(facade) -> None:
    member = facade.member()
    key = load_key(facade.settings.key_file)
    grant = Grant(user_id=UUID(member.user_id), org=member.org, key_id=uuid4())
    wrong = {
        "none": {},
        "other scheme": {"Authorization": f"Basic {member.token}"},
        "api key": {"X-Api-Key": member.token},
        "garbage": {"Authorization": "Bearer x.y.z"},
        "other signing key": {"Authorization": f"Bearer {Tokens(b'another key of the right size...').issue(grant)}"},
        "expired": {"Authorization": f"Bearer {Tokens(key, now=lambda: 1_000_000).issue(grant)}"},
        "key that never was": {"Authorization": f"Bearer {Tokens(key).issue(grant)}"},
    }
    routes = all_routes(facade)
    assert len(routes) > 80
    with httpx.Client(base_url=facade.url) as client:
        for method, path in sorted(routes):
            if path in OPEN_PATHS:
                continue
            for case, headers in wrong.items():
                answer = client.request(
                    method, filled_in(path, member.org, member.user_id), headers=headers, content=b"{not json"
                )
                assert answer.status_code == 401, (method, path, case, answer.status_code)
                if method != "HEAD":
                    assert answer.json()["error_code"] == 1
                assert answer.headers["www-authenticate"] == "Bearer"


def test_no_route_is_left_out_of_the_walk(facade) -> None:
    """A route that the served document hides would escape the test above."""
    walked = {path for _, path in all_routes(facade)}
    hidden = {
        route.path
        for route in flat(facade.app.routes)
        if isinstance(route, APIRoute) and not route.include_in_schema and ":download" not in route.path
    }
    assert hidden <= DOCUMENTATION
    assert {route.path for route in flat(facade.app.routes) if isinstance(route, Mount)} <= DOCUMENTATION
    assert any(isinstance(route, APIRoute) and ":download" in route.path for route in flat(facade.app.routes))
    with httpx.Client(base_url=facade.url) as client:
        for path in sorted(OPEN_PATHS - {"/api/v1/login"}):
            assert client.get(path).status_code == 200, path
        served = set(client.get("/openapi.json").json()["paths"])
        for page in ("/docs", "/redoc"):
            assert "http" not in client.get(page).text, "documentation must not need another server"
    assert served == walked
    assert served >= OPEN_PATHS
    assert not DOCUMENTATION & served


def test_foreign_ids_answer_byte_for_byte_like_unknown_ones(facade) -> None:
    ann, eve = facade.member(), facade.member(user="eve")
    dataset_id, experiment_id = ann.filled(), ann.ready()
    job_id = ann.start(f"experiments/{experiment_id}", "train")
    convert_id = ann.start(f"datasets/{dataset_id}", "convert")
    own = eve.ready()
    known = {"dataset_id": dataset_id, "experiment_id": experiment_id}
    for method, path in sorted(all_routes(facade)):
        if "{user_id}" not in path or not ("{dataset_id}" in path or "{experiment_id}" in path):
            continue
        job = job_id if "{experiment_id}" in path else convert_id
        relative = path.removeprefix("/api/v1/users/{user_id}/").replace("{action}", "train")
        answers = []
        for ids in ({**known, "job_id": job}, {name: str(uuid4()) for name in (*known, "job_id")}):
            target = relative
            for name, value in ids.items():
                target = target.replace(f"{{{name}}}", value)
            body = {"content": json.dumps({"action": "train" if "{experiment_id}" in path else "convert"})}
            if target.endswith(":upload"):
                body = {"files": {"file": b"x"}}
            answer = eve.client.request(method, target, **body)
            answers.append((answer.status_code, answer.content, sorted(answer.headers.keys())))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == 404, (method, path)
    # a job of the own org under another of its own experiments, and foreign ids in bodies
    foreign, unknown = (
        eve.post_job(f"experiments/{own}", "evaluate", parent_job_id=parent) for parent in (job_id, str(uuid4()))
    )
    assert (foreign.status_code, foreign.content) == (unknown.status_code, unknown.content)
    assert foreign.status_code == 404
    for field in ("eval_dataset", "inference_dataset", "calibration_dataset"):
        texts = []
        for target in (dataset_id, str(uuid4())):
            answer = eve.client.patch(f"experiments/{own}", content=json.dumps({field: target}))
            assert answer.status_code == 400
            texts.append(answer.text.replace(target, "ID"))
        assert texts[0] == texts[1]
    assert ann.job(f"experiments/{experiment_id}", job_id)["status"] == "Pending"


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

"""Default deny and isolation, proved by walking every route of every dialect."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from bundle_support import make_zip, small_bundle
from facade_support import Facade, Member, image_tar
from fastapi import APIRouter
from fastapi.routing import APIRoute, APIWebSocketRoute
from prefect_trainyard.api.app import OPEN_PATHS
from prefect_trainyard.api.auth import Grant, Tokens, load_key
from prefect_trainyard.api.services.accounts.signing import create_signing_key, sign
from starlette.routing import BaseRoute, Mount
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

DOCUMENTATION = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/static-offline-docs"}
CLOUD = {"cloud_bucket_name": "bucket", "access_key": "A" * 20, "secret_key": "S" * 40, "cloud_region": "eu-west-1"}
WEBSOCKETS = {"/ws/logs/{job_id}/"}
#: What each dialect calls an id of a thing.
PARAMETERS = re.compile(r"{([a-zA-Z_]+)}")


def documented_routes(facade: Facade) -> set[tuple[str, str]]:
    document = facade.app.openapi()["paths"]
    return {(method.upper(), path) for path, operations in document.items() for method in operations}


def flat(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if isinstance(inner, APIRouter):
            yield from flat(inner.routes)
        elif isinstance(route, Mount):
            yield from flat(list(route.routes))
        else:
            yield route


def hidden_heads(facade: Facade) -> set[str]:
    """Ends of the paths that are served to HEAD and not documented."""
    return {
        route.path.rpartition("}")[2]
        for route in flat(facade.app.routes)
        if isinstance(route, APIRoute) and not route.include_in_schema and route.methods == {"HEAD"}
    }


def all_routes(facade: Facade) -> set[tuple[str, str]]:
    found = documented_routes(facade)
    heads = tuple(end for end in hidden_heads(facade) if end)
    return found | {("HEAD", path) for method, path in found if method == "GET" and path.endswith(heads)}


def filled_in(path: str, known: dict[str, str]) -> str:
    """Return a path with its parameters; those that are not known are a new id each."""
    return PARAMETERS.sub(lambda found: known.get(found[1], str(uuid4())), path)


def signed_headers(access_key: str, secret: str, method: str, target: str) -> dict[str, str]:
    timestamp = str(int(time.time() * 1000))
    return {
        "x-ncp-apigw-timestamp": timestamp,
        "x-ncp-iam-access-key": access_key,
        "x-ncp-apigw-signature-v2": sign(secret, method, target, timestamp, access_key),
    }


def test_every_route_that_is_not_open_refuses_who_is_nobody(facade: Facade) -> None:
    member = facade.member()
    key = load_key(facade.settings.key_file)
    grant = Grant(user_id=UUID(member.user_id), org=member.org, key_id=uuid4())
    wrong: dict[str, dict[str, str]] = {
        "none": {},
        "other scheme": {"Authorization": f"Basic {member.token}"},
        "token as key": {"X-Api-Key": member.token},
        "unknown key": {"X-Api-Key": "ty-" + "A" * 43},
        "garbage": {"Authorization": "Bearer x.y.z"},
        "cookie": {"Cookie": f"token={member.token}"},
        "other signing key": {"Authorization": f"Bearer {Tokens(b'another key of the right size...').issue(grant)}"},
        "expired": {"Authorization": f"Bearer {Tokens(key, now=lambda: 1_000_000).issue(grant)}"},
        "key that never was": {"Authorization": f"Bearer {Tokens(key).issue(grant)}"},
        "signature of nobody": signed_headers("A" * 20, "secret", "GET", "/"),
    }
    known = {"org_name": member.org, "org": member.org, "user_id": member.user_id, "action": "train"}
    routes = {(method, path) for method, path in all_routes(facade) if path not in OPEN_PATHS}
    assert len(routes) > 150
    with httpx.Client(base_url=facade.url) as client:
        for method, path in sorted(routes):
            for case, headers in wrong.items():
                answer = client.request(method, filled_in(path, known), headers=headers, content=b"{not json")
                assert answer.status_code == 401, (method, path, case, answer.status_code, answer.text)
                assert "www-authenticate" in answer.headers
                assert member.token not in answer.text


def test_no_route_is_hidden_from_the_walk(facade: Facade) -> None:
    documented = {path for _, path in documented_routes(facade)}
    routes = list(flat(facade.app.routes))
    hidden = {route.path for route in routes if isinstance(route, APIRoute) and not route.include_in_schema}
    heads = {
        route.path
        for route in routes
        if isinstance(route, APIRoute) and not route.include_in_schema and route.methods == {"HEAD"}
    }
    assert hidden - heads <= DOCUMENTATION
    assert heads
    assert all(any(path.endswith(end) for path in documented) for end in hidden_heads(facade))
    assert {route.path for route in routes if isinstance(route, Mount)} <= DOCUMENTATION
    assert {route.path for route in routes if isinstance(route, APIWebSocketRoute)} <= WEBSOCKETS
    assert documented >= OPEN_PATHS
    assert not DOCUMENTATION & documented
    with httpx.Client(base_url=facade.url) as client:
        assert set(client.get("/openapi.json").json()["paths"]) == documented
        for page in ("/docs", "/redoc"):
            assert "http" not in client.get(page).text, "documentation must not need another server"


def test_open_routes_give_nothing_to_who_has_nothing(facade: Facade) -> None:
    member = facade.member()
    with httpx.Client(base_url=facade.url) as client:
        for method, path in sorted(all_routes(facade)):
            if path not in OPEN_PATHS:
                continue
            answer = client.request(method, filled_in(path, {}), content=b"{}")
            if "{" in path or "session_status" in path or path.endswith("/login"):
                assert answer.status_code in (400, 401, 404), (method, path, answer.status_code)
            assert member.org not in answer.text and "traceback" not in answer.text.lower()


def test_socket_refuses_who_is_nobody_before_it_opens(facade: Facade) -> None:
    address = facade.url.replace("http", "ws", 1)
    for query in ("", "?api_key=", "?api_key=ty-" + "A" * 43):
        with pytest.raises(InvalidStatus), connect(f"{address}/ws/logs/{uuid4()}/{query}"):
            pass


class Things:
    """One of everything that an org can have, by the names that paths have for it."""

    def __init__(self, facade: Facade, member: Member) -> None:
        self.member = member
        self.api = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {member.token}"}, timeout=60)
        dataset_id, experiment_id = member.filled(), member.ready()
        self.train = member.start(f"experiments/{experiment_id}", "train")
        self.convert = member.start(f"datasets/{dataset_id}", "convert")
        project = self.make("/api/v1/projects/", {"name": "p"})
        command = self.make("/api/v1/jobs/", {"project": project, "config": {"run_command": "true"}})
        workspace = self.make(
            f"/api/v1/orgs/{member.org}/workspaces",
            {"name": "w", "cloud_type": "aws", "cloud_specific_details": CLOUD},
        )
        self.ids = {
            "dataset_id": dataset_id,
            "experiment_id": experiment_id,
            "model_id": experiment_id,
            "serviceId": experiment_id,
            "workspace_id": workspace,
            "org": f"o-{member.org}",
            "secret_name": "NAME",
        }
        self.command = command
        packed = {"data": ("bundle.zip", make_zip(small_bundle()))}
        self.bundle = str(self.api.post("/train/space", files=packed).raise_for_status().json()["job_id"])

    def make(self, path: str, body: dict[str, Any]) -> str:
        answer = self.api.post(path, content=json.dumps(body))
        assert answer.status_code == 201, (path, answer.text)
        shown = answer.json()
        return str(shown.get("id") or shown["data"]["id"])

    def of(self, path: str) -> dict[str, str]:
        if path.startswith("/train/"):
            return {**self.ids, "job_id": self.bundle}
        if path.startswith("/api/v1/jobs/"):
            return {**self.ids, "job_id": self.command}
        return {**self.ids, "job_id": self.convert if "dataset" in path else self.train}


def body_for(path: str) -> dict[str, Any]:
    """Return a body that a route takes, so that nothing but the id can be wrong."""
    action = "convert" if "dataset" in path else "train"
    if path.endswith("/jobs"):
        return {"action": action}
    if path.endswith("/job"):
        return {"actions": [action]}
    if path.endswith("/secrets/"):
        return {"secrets": [{"name": "A", "value": "b"}]}
    return {"name": "x"}


WORDS = {"action": "train", "metric_name": "cpu"}
#: Parameters that name nothing of an org, or what only the org itself can be.
NAMES_NOTHING = {"org_name", "user_id", "action", "metric_name", "ngc_api_key", "token", "key_id", "workspace"}


def test_ids_of_another_org_answer_like_unknown_ones_on_every_route(facade: Facade) -> None:
    ann, eve = facade.member(), facade.member(user="eve")
    things = Things(facade, ann)
    Things(facade, eve)
    access_key, secret = create_signing_key(
        facade.settings.database_url, facade.settings.secrets_key_file, eve.org, "eve"
    )
    before = snapshot(things)
    eve_client = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {eve.token}"}, timeout=60)
    walked = 0
    for method, path in sorted(all_routes(facade)):
        names = set(PARAMETERS.findall(path)) - NAMES_NOTHING
        if not names or path in OPEN_PATHS:
            continue
        walked += 1
        own = {
            "org_name": eve.org,
            "user_id": eve.user_id,
            "action": "train",
            "metric_name": "cpu",
            "workspace": "space",
        }
        answers = []
        for ids in (things.of(path), {}):
            target = filled_in(path, {**own, **ids})
            extra: dict[str, Any] = {}
            if target.endswith((":upload", "/upload")):
                extra["files"] = {"file": ("a.tar.gz", image_tar(["cat"]))}
            elif method in ("POST", "PUT", "PATCH"):
                extra["content"] = json.dumps(body_for(path))
            if "/services/" in path:
                extra["headers"] = signed_headers(access_key, secret, method, target)
            answer = eve_client.request(method, target, **extra)
            text = answer.text
            for value in re.findall(r"[^/?:]{21,}", target):
                text = text.replace(value, "ID")
            answers.append((answer.status_code, text, sorted(answer.headers.keys())))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == (501 if "/ssh-" in path else 404), (method, path, answers[0])
    assert walked > 100
    assert snapshot(things) == before


KEPT = ("id", "name", "last_modified", "status", "action")


def snapshot(things: Things) -> list[Any]:
    """Return what its owner sees, and what nobody else may have changed."""
    seen = []
    seen.append(things.api.get("/train/space").json())
    for path in ("datasets", "experiments", "experiments/*/jobs", "datasets/*/jobs", "workspaces"):
        answer = things.member.client.get(path)
        assert answer.status_code == 200
        seen.append([{name: thing.get(name) for name in KEPT} for thing in answer.json()])
    secrets = things.api.get(f"/api/v1/organizations/{things.member.org}/secrets/")
    return [*seen, secrets.json()]


def test_ids_of_another_org_in_bodies_and_queries_answer_like_unknown_ones(facade: Facade) -> None:
    ann, eve = facade.member(), facade.member(user="eve")
    things = Things(facade, ann)
    own = eve.ready()
    for parent in (things.train, str(uuid4())):
        assert eve.post_job(f"experiments/{own}", "evaluate", parent_job_id=parent).status_code == 404
    for field in ("eval_dataset", "inference_dataset", "calibration_dataset"):
        texts = []
        for target in (things.ids["dataset_id"], str(uuid4())):
            answer = eve.client.patch(f"experiments/{own}", content=json.dumps({field: target}))
            assert answer.status_code == 400
            texts.append(answer.text.replace(target, "ID"))
        assert texts[0] == texts[1]
    api = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {eve.token}"})
    texts = []
    for target in (things.command, str(uuid4())):
        answer = api.get("/api/v1/metrics/cpu/", params={"job_id": target})
        assert answer.status_code == 404
        texts.append(answer.text.replace(target, "ID"))
    assert texts[0] == texts[1]
    for workspace in (things.ids["workspace_id"], str(uuid4())):
        body = {"type": "image_classification", "format": "classification_pyt", "workspace": workspace}
        answer = eve.client.post("datasets", content=json.dumps(body))
        assert answer.status_code in (400, 404), answer.text

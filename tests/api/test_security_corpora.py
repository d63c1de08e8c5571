"""Hostile names, addresses, archives and pickles on every entrance of the facade."""

from __future__ import annotations

import io
import json
import pickle
import re
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, Member, image_png

#: Is in every hostile name, so that a path with one is seen whatever became of the rest.
MARK = "zqx7q"
TRAVERSALS = [
    f"../../../../tmp/{MARK}",
    f"..\\..\\..\\{MARK}",
    f"/tmp/{MARK}",
    f"//proc/self/{MARK}",
    f"file:///tmp/{MARK}#../..",
    f"file://./tmp/{MARK}",
    f"%2e%2e%2f%2e%2e%2f{MARK}",
    f"%252e%252e%252f{MARK}",
    f"..%c0%af..%c0%af{MARK}",
    f"....//....//{MARK}",
    f"{MARK}/../../x",
    f"~root/{MARK}",
    f"$(touch /tmp/{MARK})",
    f"`touch /tmp/{MARK}`",
    f"; touch /tmp/{MARK} #",
    f"--upload-pack=touch /tmp/{MARK}",
    f"' OR '1'='1' -- {MARK}",
    f'"; DROP TABLE jobs; -- {MARK}',
    f"{{{{7*7}}}}{MARK}",
    f"${{jndi:ldap://127.0.0.1/{MARK}}}",
    f"<script>{MARK}</script>",
    f"con.{MARK}:stream",
    f"{MARK}\u202e\u2028",
]
CONTROL = [f"{MARK}\0x", f"{MARK}\r\nX-Injected: 1", f"{MARK}\x1b[2J", f"{MARK}\n2026-01-01 ERROR forged"]

_watching = False
_touched: list[tuple[str, str]] = []
_PATH_EVENTS = ("open", "os.", "shutil.", "subprocess.Popen", "glob.", "pathlib.", "ctypes.dlopen", "tempfile.")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event.startswith(_PATH_EVENTS):
        text = repr(arguments)
        if MARK in text:
            _touched.append((event, text[:300]))


sys.addaudithook(_audit)  # there is no way to take one out again, so it has a switch


@contextmanager
def no_path_has_the_mark() -> Iterator[None]:
    """Fail if this process, which serves the facade as well, uses a hostile name as a path or a command."""
    global _watching
    _touched.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
    assert _touched == []


def strings_of(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Return the paths of all text fields of a schema, and of objects that take anything."""
    for part in (*schema.get("anyOf", ()), *schema.get("allOf", ()), *schema.get("oneOf", ())):
        yield from strings_of(part, path)
    if schema.get("type") == "string":
        yield path
    for name, inner in schema.get("properties", {}).items():
        yield from strings_of(inner, (*path, name))
    if schema.get("additionalProperties") not in (None, False) and path:
        yield (*path, "*")


def body_with(base: dict[str, Any], path: tuple[str, ...], value: str) -> dict[str, Any]:
    body = json.loads(json.dumps(base))
    inner = body
    for name in path[:-1]:
        if not isinstance(inner.get(name), dict):
            inner[name] = {}
        inner = inner[name]
    if path[-1] == "*":
        inner[value] = value
    else:
        inner[path[-1]] = value
    return body


def bases(member: Member) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return what is made in each dialect: method, documented path, real path, and a body that is right."""
    org, user = member.org, member.user_id
    dataset_id, experiment_id = member.dataset(), member.experiment()
    project = member.client.post(f"{member.facade.url}/api/v1/projects/", content=b'{"name": "p"}').json()
    project_id = project.get("id") or project["data"]["id"]
    v5, v4 = "/api/v1/orgs/{org_name}", "/api/v1/user/{user_id}"
    o, u = f"/api/v1/orgs/{org}", f"/api/v1/user/{user}"
    kind = {"type": "image_classification", "format": "classification_pyt"}
    cloud = {"cloud_bucket_name": "b", "access_key": "A" * 20, "secret_key": "S" * 40}
    return [
        ("post", f"{v5}/datasets", f"{o}/datasets", kind),
        ("patch", f"{v5}/datasets/{{dataset_id}}", f"{o}/datasets/{dataset_id}", {}),
        ("post", f"{v5}/experiments", f"{o}/experiments", {"network_arch": "classification_pyt"}),
        ("patch", f"{v5}/experiments/{{experiment_id}}", f"{o}/experiments/{experiment_id}", {}),
        (
            "post",
            f"{v5}/experiments/{{experiment_id}}/jobs",
            f"{o}/experiments/{experiment_id}/jobs",
            {"action": "train"},
        ),
        ("post", f"{v5}/workspaces", f"{o}/workspaces", {"cloud_type": "aws", "cloud_specific_details": cloud}),
        ("post", f"{v4}/dataset", f"{u}/dataset", kind),
        ("post", f"{v4}/model", f"{u}/model", {"network_arch": "classification_pyt"}),
        ("post", "/api/v1/projects/", "/api/v1/projects/", {"name": "p2"}),
        (
            "post",
            "/api/v1/organizations/{org}/secrets/",
            f"/api/v1/organizations/{org}/secrets/",
            {"secrets": [{"name": "A", "value": "b"}]},
        ),
        ("post", "/api/v1/jobs/", "/api/v1/jobs/", {"project": project_id, "config": {"run_command": "true"}}),
        ("post", "/api/v1/cli/create_session/", "/api/v1/cli/create_session/", {"name": "laptop"}),
        ("post", "/api/v1/login", "/api/v1/login", {"ngc_api_key": "x"}),
    ]


def test_no_text_of_a_body_becomes_a_path_a_command_or_a_fault(facade: Facade, ann: Member) -> None:
    document = facade.app.openapi()["paths"]
    api = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {ann.token}"}, timeout=60)
    fields = 0
    with no_path_has_the_mark():
        for method, documented, path, base in bases(ann):
            schema = document[documented][method]["requestBody"]["content"]["application/json"]["schema"]
            for number, field in enumerate(sorted(set(strings_of(schema)))):
                fields += 1
                # every text meets some of the corpus, and the whole corpus meets every route
                for value in [*TRAVERSALS[number % 8 :: 8], CONTROL[number % 4]]:
                    answer = api.request(method, path, content=json.dumps(body_with(base, field, value)))
                    assert answer.status_code < 500, (path, field, value, answer.text)
                    assert "x-injected" not in answer.headers
    assert fields > 100


def test_no_text_of_a_path_or_query_becomes_a_path_or_a_fault(facade: Facade, ann: Member) -> None:
    document = facade.app.openapi()["paths"]
    known = {
        "org_name": ann.org,
        "user_id": ann.user_id,
        "dataset_id": ann.dataset(),
        "experiment_id": ann.experiment(),
    }
    api = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {ann.token}"}, timeout=60)
    with no_path_has_the_mark():
        for path, operations in document.items():
            if path.startswith("/api/v1/users/"):
                continue  # the same routes as below orgs/
            names = re.findall(r"{([a-zA-Z_]+)}", path)
            queries = [p["name"] for p in operations.get("get", {}).get("parameters", []) if p["in"] == "query"]
            for number, value in enumerate([*TRAVERSALS[::2], *CONTROL]):
                target = path
                for name in names:
                    hostile = name == names[number % len(names)]
                    text = value if hostile else known.get(name, str(uuid4()))
                    target = target.replace(f"{{{name}}}", quote(text, safe=""))
                answer = api.get(target, params=dict.fromkeys(queries, value))
                assert answer.status_code < 500 or answer.status_code == 501, (path, value, answer.text)
                assert "x-injected" not in answer.headers


def test_names_with_controls_never_reach_a_log_or_a_list(facade: Facade, ann: Member) -> None:
    for value in CONTROL:
        for path, body in (
            ("datasets", {"type": "image_classification", "format": "classification_pyt", "name": value}),
            ("experiments", {"network_arch": "classification_pyt", "name": value}),
            ("workspaces", {"cloud_type": "aws", "cloud_specific_details": {}, "name": value}),
        ):
            answer = ann.client.post(path, content=json.dumps(body))
            assert answer.status_code == 400, (path, value, answer.text)
        answer = ann.client.post(f"{facade.url}/api/v1/projects/", content=json.dumps({"name": value}))
        assert answer.status_code == 400, answer.text
    assert ann.client.get("datasets").json() == []


#: Addresses that lead inside, as data and as the place of a storage.
INSIDE = ["http://127.0.0.1:4200/api/", "http://[::1]/", "http://169.254.169.254/latest/", "http://2130706433/x.tar.gz"]
NO_WEB = ["file:///etc/passwd", "gopher://127.0.0.1/", "http://user:pw@127.0.0.1/", "ftp://127.0.0.1/x"]


@pytest.mark.parametrize("url", [*INSIDE, *NO_WEB])
def test_addresses_that_lead_inside_are_refused_on_every_entrance(ann: Member, url: str) -> None:
    kind = {"type": "image_classification", "format": "classification_pyt"}
    for field in ("pull", "client_url"):
        made = ann.client.post("datasets", content=json.dumps({**kind, field: url}))
        assert made.status_code == 400, (field, made.text)
    cloud = {"cloud_bucket_name": "b", "access_key": "A" * 20, "secret_key": "S" * 40, "endpoint_url": url}
    details = {"cloud_type": "aws", "cloud_specific_details": cloud}
    for path, body in (
        ("workspaces", {"name": "w", **details}),
        ("datasets", {**kind, "cloud_details": {**details, "cloud_file_path": "x"}}),
    ):
        answer = ann.client.post(path, content=json.dumps(body))
        assert answer.status_code == 400, (path, answer.text)
    assert ann.client.get("datasets").json() == [] and ann.client.get("workspaces").json() == []


class Bomb:
    """Runs a command in whoever unpickles it."""

    def __init__(self, file: str) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exec, (f"open({self._file!r}, 'w').close()",))


def tar_of(*members: tarfile.TarInfo, content: bytes = b"x") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for info in members:
            if info.isreg():
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_of(name: str, content: bytes = b"x", mode: int = 0o100644, times: int = 1) -> bytes:
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # the duplicate is wanted
        for _ in range(times):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return packed.getvalue()


ARCHIVES = {
    "parent": tar_of(entry(f"../{MARK}")),
    "far parent": tar_of(entry(f"a/../../../../../../tmp/{MARK}")),
    "absolute": tar_of(entry(f"/tmp/{MARK}")),
    "backslashes": tar_of(entry(f"..\\..\\{MARK}")),
    "link out": tar_of(entry("a", tarfile.SYMTYPE, "/etc"), entry(f"a/{MARK}")),
    "link in": tar_of(entry("a", tarfile.SYMTYPE, "b"), entry("b")),
    "hard link": tar_of(entry("a", tarfile.LNKTYPE, "/etc/passwd")),
    "device": tar_of(entry("a", tarfile.CHRTYPE)),
    "pipe": tar_of(entry("a", tarfile.FIFOTYPE)),
    "twice": tar_of(entry("a"), entry("a")),
    "newline": tar_of(entry(f"a\n{MARK}")),
    "bomb": tar_of(entry("a"), content=b"\0" * (64 << 20)),
    "cut": tar_of(entry("a"), content=image_png())[:-20],
    "no archive": pickle.dumps(["x"]),
    "zip parent": zip_of(f"../{MARK}"),
    "zip absolute": zip_of(f"/tmp/{MARK}"),
    "zip link": zip_of("a", b"/etc/passwd", mode=0o120777),
    "zip bomb": zip_of("a", b"\0" * (64 << 20)),
    "zip twice": zip_of("a", times=2),
    "zip cut": zip_of("a", b"x" * 100)[:-10],
}


def uploads(facade: Facade, member: Member) -> dict[str, Callable[[bytes], httpx.Response]]:
    """Every place that takes an archive."""
    api = httpx.Client(base_url=facade.url, headers={"Authorization": f"Bearer {member.token}"}, timeout=60)
    dataset_id, v4_id = member.dataset(), member.dataset()
    project = api.post("/api/v1/projects/", content=b'{"name": "p"}').json()
    config = {"project": project.get("id") or project["data"]["id"], "config": {"run_command": "true"}}
    command = api.post("/api/v1/jobs/", content=json.dumps(config)).json()
    upload_url = command.get("upload_url") or command["data"]["upload_url"]
    return {
        "tao_v5": lambda content: member.upload(dataset_id, content),
        "tao_v4": lambda content: api.post(
            f"/api/v1/user/{member.user_id}/dataset/{v4_id}/upload", files={"file": ("a.tar.gz", content)}
        ),
        "trainwave": lambda content: httpx.put(upload_url, content=content, timeout=60),
        "workspace": lambda content: api.post("/train/space", files={"data": ("a.tar.gz", content)}),
    }


def test_hostile_archives_are_refused_on_every_entrance_and_leave_nothing(facade: Facade, ann: Member) -> None:
    entrances = uploads(facade, ann)
    before = facade.files_of(ann.org)
    with no_path_has_the_mark():
        for place, send in entrances.items():
            for name, content in ARCHIVES.items():
                answer = send(content)
                assert answer.status_code in (400, 413), (place, name, answer.status_code, answer.text)
    assert facade.files_of(ann.org) == before
    assert not [path for path in facade.settings.incoming.rglob("*") if path.is_file()]


def test_pickles_are_never_loaded_by_the_facade(facade: Facade, ann: Member, tmp_path) -> None:
    fired = tmp_path / "fired"
    bomb = pickle.dumps(Bomb(str(fired)))
    names = ("a.pkl", "a.pth", "images/cat/a.png", "model.joblib", "data.npy", "train.json", "trainyard.toml")
    for send in uploads(facade, ann).values():
        for name in names:
            answer = send(tar_of(entry(name), content=bomb))
            assert answer.status_code < 500, answer.text
    for body in (bomb, b"\x80\x04\x95"):
        for path in ("datasets", "experiments"):
            assert ann.client.post(path, content=body).status_code == 400
    assert not fired.exists()
    pickle.loads(bomb)
    assert fired.exists(), "the bomb itself works"

"""The document `workspace-train-api`: its examples word for word, and bundles from POST to download. No worker."""

from __future__ import annotations

import asyncio
import io
import json
import stat
import uuid
import zipfile
from datetime import timedelta
from typing import Any

import httpx
import pytest
from bundle_support import MANIFEST, leave_models, make_zip, small_bundle, train_client
from facade_support import UPLOAD_MAX_BYTES, Member, make_tar
from prefect_trainyard.api.catalog import Catalog
from prefect_trainyard.api.catalog.models import Job
from prefect_trainyard.api.services.bundles.cleaning import BundleCleaning
from prefect_trainyard.blocks import layout
from prefect_trainyard.schemas.actions import Action
from support import poll

#: As printed in the document.
NOT_RUNNING = '{"error_code": "JOB_NOT_RUNNING", "message": "Job is not running, id: 1234"}'
NOT_FOUND = '{"error_code": "JOB_NOT_FOUND", "message": "There is no job with id: 1234"}'


@pytest.fixture
def train(ann: Member) -> httpx.Client:
    return train_client(ann)


def post(client: httpx.Client, workspace: str = "moons", **kwargs: Any) -> httpx.Response:
    kwargs.setdefault("files", {"data": ("bundle.zip", make_zip(small_bundle()))})
    return client.post(workspace, **kwargs)


def start(client: httpx.Client, workspace: str = "moons", **kwargs: Any) -> str:
    answer = post(client, workspace, **kwargs)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_id"])


def info(client: httpx.Client, job_id: str, workspace: str = "moons", **query: Any) -> dict[str, Any]:
    answer = client.post(f"{workspace}/{job_id}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wait(client: httpx.Client, job_id: str, status: str) -> dict[str, Any]:
    def read() -> dict[str, Any] | None:
        found = info(client, job_id)
        return found if found["status"] == status else None

    return poll(read, f"{job_id} to be {status}", 30)


def end(member: Member, client: httpx.Client, job_id: str) -> dict[str, Any]:
    member.finish(job_id, Action.TRAIN_BUNDLE, None)
    return wait(client, job_id, "done")


def test_errors_of_the_document_word_for_word(ann, train) -> None:
    assert json.loads(NOT_FOUND) == train.delete("moons/1234/").json()
    assert train.delete("moons/1234/").status_code == 404
    job_id = start(train)
    end(ann, train, job_id)
    answer = train.delete(f"moons/{job_id}/")
    assert answer.status_code == 400
    assert answer.json() == json.loads(NOT_RUNNING.replace("1234", job_id))


@pytest.mark.parametrize("path", ["moons/1234", "moons/1234/bundle", "moons/1234/logs"])
def test_unknown_job_is_told_the_same_way_everywhere(train, path) -> None:
    answer = train.get(path)
    assert (answer.status_code, answer.json()) == (404, json.loads(NOT_FOUND))


def test_job_is_readable_listed_and_logged_at_once(ann, train) -> None:
    answer = post(train, params={"user": "Bob Ross"})
    assert answer.status_code == 200
    job = answer.json()
    assert (job["status"], job["user"], job["workspace"], job["name"]) == ("queued", "Bob Ross", "moons", "small")
    listed = train.get("moons").json()
    assert [one["job_id"] for one in listed["jobs"]] == [job["job_id"]] and listed["total"] == 1
    found = info(train, job["job_id"])
    assert found["models"] == [] and found["parameters"] == {"epochs": 2}
    assert train.get(f"moons/{job['job_id']}").json() == found
    assert train.get(f"moons/{job['job_id']}/logs").text
    run = ann.facade.prefect.run(job["job_id"])
    assert run["parameters"] == {"org": ann.org, "bundle_id": job["bundle_id"], "name": "small"}
    assert {f"trainyard.org:{ann.org}", "trainyard.action:train_bundle"} <= set(run["tags"])
    assert info(train, start(train))["user"] == "ann"


@pytest.mark.parametrize("kind", ["zip", "stored zip", "tar", "tar.gz", "in a folder"])
@pytest.mark.parametrize("whole_body", [False, True])
def test_bundle_comes_as_any_usual_archive(train, kind, whole_body) -> None:
    files = small_bundle()
    content = {
        "zip": lambda: make_zip(files),
        "stored zip": lambda: make_zip(files, zipfile.ZIP_STORED),
        "tar": lambda: make_tar(files, "w"),
        "tar.gz": lambda: make_tar(files),
        "in a folder": lambda: make_zip({f"mine/{name}": data for name, data in files.items()}),
    }[kind]()
    sent = {"content": content, "headers": {"Content-Type": "application/octet-stream"}}
    job_id = start(train, **(sent if whole_body else {"files": {"data": ("b", content)}}))
    packed = zipfile.ZipFile(io.BytesIO(train.get(f"moons/{job_id}/bundle").content))
    assert {name: packed.read(name) for name in packed.namelist()} == files


def test_run_says_what_the_manifest_asks_of_a_worker_or_a_container(ann, train) -> None:
    files = small_bundle({"bundle.toml": f"{MANIFEST}[resources]\ncpus = 2\nmemory_mb = 512\n"})
    job_id = start(train, files={"data": ("bundle.zip", make_zip(files))})
    variables = ann.facade.prefect.run(job_id)["job_variables"]
    assert (variables["cpus"], variables["memory_mb"], variables["gpus"]) == (2, 512, 0)
    assert (variables["cpu_request"], variables["mem_limit"], variables["memory_limit"]) == ("2", "512m", "512Mi")


def test_inspect_shows_the_pipeline_of_the_newest_bundle(train) -> None:
    assert train.get("moons/inspect").status_code == 404
    start(train)
    manifest = """
name = "two stages"
description = "split, then train"
requirements = "code/requirements.txt"
[parameters]
rate = 0.5
name = "x"
shuffle = true
[[stages]]
name = "split"
entry_point = "code/split.py"
arguments = ["--share", "0.25"]
inputs = ["data/x.txt"]
outputs = ["work/a", "work/b"]
[[stages]]
name = "train"
entry_point = "code/train.py"
inputs = ["work/b", "data"]
"""
    files = small_bundle({"bundle.toml": manifest, "code/split.py": "", "code/requirements.txt": "numpy>=1\n"})
    start(train, files={"data": ("b.zip", make_zip(files))})
    pipeline = train.get("moons/inspect").json()
    assert pipeline["name"] == "two stages" and pipeline["requirements"] == "code/requirements.txt"
    assert pipeline["parameters"] == {"rate": 0.5, "name": "x", "shuffle": True}
    split, second = pipeline["stages"]
    assert split == {
        "name": "split",
        "entry_point": "code/split.py",
        "arguments": ["--share", "0.25"],
        "inputs": ["data/x.txt"],
        "outputs": ["work/a", "work/b"],
        "after": [],
    }
    assert (second["inputs"], second["after"]) == (["work/b", "data"], ["split"])
    assert pipeline["data"]["files"] == 1 and len(pipeline["code"]["sha256"]) == 64


def test_digests_change_with_code_and_data_apart(train) -> None:
    def digests(changes: dict[str, str]) -> tuple[str, str]:
        start(train, files={"data": ("b.zip", make_zip(small_bundle(changes)))})
        pipeline = train.get("moons/inspect").json()
        return pipeline["code"]["sha256"], pipeline["data"]["sha256"]

    first, again = digests({}), digests({})
    other_code, other_data = digests({"code/train.py": "print(2)"}), digests({"data/x.txt": "4"})
    assert first == again
    assert other_code[0] != first[0] and other_code[1] == first[1]
    assert other_data[0] == first[0] and other_data[1] != first[1]


def test_models_are_sorted_by_a_metric_and_come_in_pages(ann, train) -> None:
    job_id = start(train)
    leave_models(ann, job_id, {f"m{n}": {"accuracy": n % 7 / 7, "loss": n / 100} for n in range(1, 59)} | {"plain": {}})
    newest = info(train, job_id)
    assert [model["name"] for model in newest["models"][:2]] == ["plain", "m58"]
    assert (newest["model_count"], newest["page_count"], len(newest["models"])) == (59, 2, 50)
    by_loss = info(train, job_id, sort_by="loss")["models"]
    assert [model["name"] for model in by_loss[:3]] == ["m1", "m2", "m3"]
    assert [model["name"] for model in info(train, job_id, sort_by="loss", page_id=2)["models"]] == [
        *(f"m{n}" for n in range(51, 59)),
        "plain",
    ]
    best = info(train, job_id, sort_by="accuracy")["models"]
    assert best[0]["metrics"]["accuracy"] == pytest.approx(6 / 7)
    assert info(train, job_id, page_id=99)["models"] == []
    refused = train.post(f"moons/{job_id}", params={"sort_by": "beauty"})
    assert refused.status_code == 400 and "accuracy, loss" in refused.json()["message"]
    for query in ({"page_id": 0}, {"page_id": "x"}, {"page_id": 2**70}, {"sort_by": ""}):
        answer = train.post(f"moons/{job_id}", params=query)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_INPUT"), query


def test_download_holds_what_the_flags_ask_for(ann, train) -> None:
    job_id = start(train)
    leave_models(ann, job_id, {"best.bin": {"accuracy": 1.0}})

    def names(**flags: str) -> set[str]:
        answer = train.get(f"moons/{job_id}/bundle", params={k.replace("_", "-"): v for k, v in flags.items()})
        assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"] == f'attachment; filename="{job_id}.zip"'
        assert int(answer.headers["content-length"]) == len(answer.content)
        return set(zipfile.ZipFile(io.BytesIO(answer.content)).namelist())

    code, data, model = {"bundle.toml", "code/train.py"}, {"data/x.txt"}, {f"models/{job_id}/best.bin"}
    assert names() == code | data
    assert names(include_data="false") == code
    assert names(include_code="false") == data
    assert names(include_model="true") == code | data | model
    assert names(include_code="false", include_data="false", include_model="true") == model
    flags = {"include-code": "false", "include-data": "false"}
    assert train.get(f"moons/{job_id}/bundle", params=flags).status_code == 400
    assert train.get(f"moons/{job_id}/bundle", params={"include-code": "perhaps"}).status_code == 400


def test_provenance_says_what_a_model_was_made_from(ann, train) -> None:
    job_id = start(train, params={"user": "bob"})
    leave_models(ann, job_id, {"first": {"loss": 1.0}, "second": {"loss": 0.5}})
    model = info(train, job_id)["models"][0]
    told = train.get(f"moons/{model['model_id']}/provenance").json()
    pipeline = train.get("moons/inspect").json()
    assert (told["name"], told["job_id"], told["user"]) == ("second", job_id, "bob")
    assert (told["code"], told["data"]) == (pipeline["code"], pipeline["data"])
    assert told["environment"]["packages"] == ["numpy==2.4.6"] and told["environment"]["python"] == "3.11.7"
    assert (told["parameters"], told["metrics"]) == ({"epochs": 2}, {"loss": 0.5})
    assert told["parents"][0]["model_id"] == f"{job_id}-1" and told["mlflow_run_id"] == "run1"
    for unknown in (f"{job_id}-3", f"{job_id}-0", f"{job_id}-01", job_id, "1234", f"{uuid.uuid4()}-1", "%2e%2e"):
        answer = train.get(f"moons/{unknown}/provenance")
        assert (answer.status_code, answer.json()["error_code"]) == (404, "MODEL_NOT_FOUND"), unknown


def test_job_can_be_killed_while_it_waits_builds_and_runs(ann, train) -> None:
    waiting, building = start(train), start(train)
    assert train.delete(f"moons/{waiting}").status_code == 200
    assert wait(train, waiting, "killed")["ended_at"] is not None
    ann.facade.prefect.move(building, "RUNNING")
    wait(train, building, "building")
    killed = train.delete(f"moons/{building}/")
    assert killed.status_code == 200 and killed.json()["status"] in ("stopping", "killed")
    assert train.delete(f"moons/{waiting}/").json()["error_code"] == "JOB_NOT_RUNNING"
    assert train.get(f"moons/{waiting}/logs").text.endswith("Error EOF\n")


def test_parent_model_has_to_exist_and_its_job_to_be_done(ann, train) -> None:
    first = start(train)
    leave_models(ann, first, {"m": {"loss": 1.0}})

    def child(parent: str) -> httpx.Response:
        manifest = MANIFEST.replace("[parameters]", f'parents = ["{parent}"]\n[parameters]')
        return post(train, files={"data": ("b.zip", make_zip(small_bundle({"bundle.toml": manifest})))})

    early = child(f"{first}-1")
    assert early.status_code == 400 and "pending" in early.json()["message"]
    end(ann, train, first)
    leave_models(ann, first, {"m": {"loss": 1.0}})
    answer = child(f"{first}-1")
    assert answer.status_code == 200, answer.text
    assert ann.facade.prefect.run(answer.json()["job_id"])["parameters"]["parent_job_id"] == first
    eve = train_client(ann.facade.member(user="eve"))
    foreign = start(eve)
    for unknown in (f"{first}-2", f"{uuid.uuid4()}-1", f"{foreign}-1"):
        refused = child(unknown)
        assert refused.status_code == 400 and refused.json()["message"] == f"parents: there is no model {unknown}."
    assert child("latest").json()["error_code"] == "INVALID_BUNDLE"


def test_run_that_somebody_starts_in_prefect_is_a_job_of_the_workspace(ann, train) -> None:
    bundle_id = post(train).json()["bundle_id"]
    by_hand = ann.facade.prefect.start_by_hand("train_bundle/bundle", {"org": ann.org, "bundle_id": bundle_id})
    poll(lambda: train.get(f"moons/{by_hand}").status_code == 200, "the adopted job", 30)
    assert train.get("moons").json()["jobs"][0]["job_id"] == by_hand
    eve = ann.facade.member(user="eve")
    stolen = ann.facade.prefect.start_by_hand("train_bundle/bundle", {"org": eve.org, "bundle_id": bundle_id})
    later = ann.facade.prefect.start_by_hand("train_bundle/bundle", {"org": ann.org, "bundle_id": bundle_id})
    poll(lambda: train.get(f"moons/{later}").status_code == 200, "the adopted job", 30)
    assert train_client(eve).get(f"moons/{stolen}").status_code == 404


def test_other_orgs_and_other_workspaces_see_nothing(ann, train) -> None:
    job_id = start(train)
    leave_models(ann, job_id, {"m": {}})
    eve = train_client(ann.facade.member(user="eve"))
    own = start(eve, "hers")
    for client, workspace in ((eve, "moons"), (train, "suns")):
        assert client.get(workspace).json()["jobs"] == []
        assert client.get(f"{workspace}/inspect").status_code == 404
        for path in (f"{job_id}", f"{job_id}/bundle", f"{job_id}/logs", f"{job_id}-1/provenance"):
            answer = client.get(f"{workspace}/{path}")
            unknown = client.get(f"{workspace}/{path.replace(job_id, '0' * 8 + job_id[8:])}")
            assert answer.status_code == 404
            assert answer.text.replace(job_id, "") == unknown.text.replace("0" * 8 + job_id[8:], "")
        assert client.delete(f"{workspace}/{job_id}/").status_code == 404
    assert info(train, job_id)["status"] == "queued"
    assert eve.get(f"hers/{own}").status_code == 200


def test_same_idempotency_key_makes_one_job(ann, train) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    content = make_zip(small_bundle())
    answers = [post(train, files={"data": ("b.zip", content)}, headers=key) for _ in range(2)]
    assert answers[0].json()["job_id"] == answers[1].json()["job_id"]
    assert train.get("moons").json()["total"] == 1


def _with(changes: dict[str, str | bytes | None]) -> bytes:
    return make_zip(small_bundle(changes))


def _manifest(old: str, new: str) -> bytes:
    assert old in MANIFEST
    return _with({"bundle.toml": MANIFEST.replace(old, new)})


def _special(name: str, mode: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for path, data in small_bundle().items():
            packed.writestr(path, data)
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        packed.writestr(member, "/etc/passwd")
    return content.getvalue()


def _patched(old: bytes, new: bytes) -> bytes:
    content = make_zip(small_bundle(), zipfile.ZIP_STORED)
    assert old in content
    return content.replace(old, new)


BAD = {
    "nothing": b"",
    "text": b"hello",
    "no archive": b"\x00" * 2000,
    "cut zip": make_zip(small_bundle())[:-30],
    "start of a zip": b"PK\x03\x04",
    "wrong checksum": _patched(b"trained", b"drained"),
    "pickle": b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "empty zip": make_zip({}),
    "up and out": _with({"../evil": "x"}),
    "absolute": _with({"/tmp/evil": "x"}),
    "backslash": _with({"..\\evil": "x"}),
    "control character": _with({"code/a\nb": "x"}),
    "symbolic link": _special("data/link", stat.S_IFLNK | 0o777),
    "device": _special("data/null", stat.S_IFCHR | 0o666),
    "pipe": _special("data/pipe", stat.S_IFIFO | 0o666),
    "bomb": make_zip({"data/zeros": bytes(80 * 2**20)}),
    "no manifest": _with({"bundle.toml": None}),
    "manifest deeper": _with({"bundle.toml": None, "code/bundle.toml": MANIFEST}),
    "no TOML": _with({"bundle.toml": "name = "}),
    "manifest not UTF-8": _with({"bundle.toml": b"name = '\xff'"}),
    "huge manifest": _with({"bundle.toml": MANIFEST + "#" * 200_000}),
    "unknown key": _manifest('name = "small"', 'name = "small"\ncolour = "red"'),
    "no stages": _with({"bundle.toml": 'name = "x"'}),
    "no entry point": _manifest("code/train.py", "code/missing.py"),
    "entry point outside": _manifest("code/train.py", "../../etc/passwd"),
    "absolute entry point": _manifest("code/train.py", "/usr/bin/env"),
    "entry point of data": _with({"bundle.toml": MANIFEST.replace("code/train.py", "data/x.py"), "data/x.py": ""}),
    "shell": _with({"bundle.toml": MANIFEST.replace("code/train.py", "code/x.sh"), "code/x.sh": "rm -rf /"}),
    "missing input": _manifest("data/x.txt", "data/y.txt"),
    "input outside": _manifest("data/x.txt", "../x.txt"),
    "output among the data": _manifest('inputs = ["data/x.txt"]', 'outputs = ["data/y.txt"]'),
    "output that is there": _manifest('inputs = ["data/x.txt"]', 'outputs = ["code/train.py"]'),
    "stage twice": _manifest("[[stages]]", '[[stages]]\nname = "train"\nentry_point = "code/train.py"\n[[stages]]'),
    "parameter of a bad type": _manifest("epochs = 2", "epochs = [1, 2]"),
    "infinite parameter": _manifest("epochs = 2", "epochs = inf"),
    "huge parameter": _manifest("epochs = 2", f"epochs = {10**40}"),
    "parameter of a bad name": _manifest("epochs = 2", '"$(reboot)" = 2'),
    "bad word": _manifest("maximize", "enlarge"),
    "no requirements": _manifest('name = "small"', 'name = "small"\nrequirements = "code/requirements.txt"'),
    "nested requirements": _with(
        {
            "bundle.toml": MANIFEST.replace('name = "small"', 'name = "small"\nrequirements = "code/r.txt"'),
            "code/r.txt": "-r /etc/passwd\n",
        }
    ),
}


def test_bad_bundle_is_refused_and_leaves_nothing(ann, train) -> None:
    runs = ann.facade.prefect.count_runs()
    for case, content in BAD.items():
        answer = post(train, files={"data": ("b.zip", content)})
        assert answer.status_code == 400, (case, answer.text)
        assert answer.json()["error_code"] in ("INVALID_ARCHIVE", "INVALID_BUNDLE"), case
        assert "Traceback" not in answer.text and str(ann.facade.settings.home) not in answer.text, case
    assert train.get("moons").json()["total"] == 0 and train.get("moons/inspect").status_code == 404
    assert ann.facade.files_of(ann.org) == []
    assert ann.facade.prefect.count_runs() == runs


def test_encrypted_and_duplicate_members_are_refused(train) -> None:
    encrypted = bytearray(make_zip(small_bundle()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(signature) + offset] |= 1
    assert "encrypted" in post(train, files={"data": ("b.zip", bytes(encrypted))}).json()["message"]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed, pytest.warns(UserWarning, match="Duplicate"):
        for name in ("bundle.toml", "bundle.toml"):
            packed.writestr(name, MANIFEST)
    assert "twice" in post(train, files={"data": ("b.zip", content.getvalue())}).json()["message"]


def test_body_that_is_too_large_or_has_no_bundle_is_refused(ann, train) -> None:
    large = b"\0" * (UPLOAD_MAX_BYTES + 200_000)
    sent = {"content": large, "headers": {"Content-Type": "application/zip"}}
    for kwargs in ({"files": {"data": ("b.zip", large)}}, sent):
        answer = post(train, **kwargs)
        assert (answer.status_code, answer.json()["error_code"]) == (413, "TOO_LARGE")
    other_field = post(train, files={"file": ("b.zip", make_zip(small_bundle()))})
    assert other_field.status_code == 400 and "`data`" in other_field.json()["message"]
    assert ann.facade.files_of(ann.org) == []


@pytest.mark.parametrize("name", ["-x", ".hidden", "a b", "x" * 101, "%2e%2e", "a%2Fb%00", "ä"])
def test_names_that_could_be_something_else_are_no_workspaces(train, name) -> None:
    answer = train.get(name)
    assert answer.status_code in (400, 404) and "error_code" in answer.json()
    assert post(train, name).status_code in (400, 404, 405)


def test_owner_has_to_be_a_name(train) -> None:
    for user in ("", "x" * 256, "a\0b", "a\nb"):
        assert post(train, params={"user": user}).status_code == 400


def test_bundle_goes_when_its_last_job_is_gone_but_for_the_newest(ann, train) -> None:
    storage, url = ann.facade.storage, ann.facade.settings.database_url
    jobs = [start(train) for _ in range(3)]
    places = [layout.bundle(ann.org, info(train, job_id)["bundle_id"]) for job_id in jobs]
    assert {file.path for file in storage.list_files(places[0])} == {"bundle.json", "code.zip", "data.zip"}

    async def collect() -> None:
        catalog = Catalog(url)
        try:
            async with catalog.writing() as session:
                for job_id in (jobs[0], jobs[2]):
                    await session.delete(await session.get_one(Job, uuid.UUID(job_id)))
            await BundleCleaning(catalog).collect(timedelta(0))
        finally:
            await catalog.close()

    for job_id in (jobs[0], jobs[2]):
        ann.facade.prefect.client.delete(f"flow_runs/{job_id}").raise_for_status()
    asyncio.run(collect())
    poll(lambda: not storage.list_files(places[0]), "the files of the first bundle to go", 30)
    assert storage.list_files(places[1]) and storage.list_files(places[2])
    assert [job["job_id"] for job in train.get("moons").json()["jobs"]] == [jobs[1]]
    assert train.get("moons/inspect").status_code == 200

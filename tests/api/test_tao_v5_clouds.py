"""Data sets whose files are fetched: from addresses, from S3, by workspaces; and what may not be fetched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import s3fs
from cryptography.fernet import Fernet
from facade_support import Facade, Member, Prefect, image_png, image_tar, make_tar, serve
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import layout
from prefect_trainyard.datasets.manifest import RawManifest
from support import files_with, poll

ACCESS, SECRET = "trainyard", "trainyardsecret"
DATASET = {"type": "image_classification", "format": "classification_pyt"}
PULL_MAX_BYTES = 3_000_000


@dataclass
class Web:
    """A web server with files; a file in `held` is sent to its half and goes on when it is let go."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    held: dict[str, threading.Event] = field(default_factory=dict)
    half_sent: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            found.asked.append(self.path)
            if path in found.moved:
                self.send_response(302)
                self.send_header("Location", found.moved[path])
                self.end_headers()
                return
            if path not in found.files:
                self.send_error(404)
                return
            content = found.files[path]
            half = len(content) // 2
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content[:half])
                if path in found.held:
                    found.half_sent.set()
                    found.held[path].wait(60)
                self.wfile.write(content[half:])
            except OSError:
                pass  # the other side has hung up

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Web(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        for event in found.held.values():
            event.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def settings(prefect_server: Prefect, web: Web, s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> ApiSettings:
    return ApiSettings(
        home=tmp_path_factory.mktemp("clouds"),
        prefect_api_url=prefect_server.api_url,
        free_min_bytes=0,
        reconcile_interval_s=2.0,
        pull_max_bytes=PULL_MAX_BYTES,
        private_hosts=[web.host, urlsplit(s3_url).netloc],
    )


@pytest.fixture(scope="module")
def facade(settings: ApiSettings, prefect_server: Prefect) -> Iterator[Facade]:
    yield from serve(settings, prefect_server)


@pytest.fixture
def ben(facade: Facade) -> Member:
    """A user of a client of 5.5."""
    return facade.member(user="ben", release="5.5", root="orgs")


@pytest.fixture(scope="module")
def bucket(s3_url: str) -> tuple[str, s3fs.S3FileSystem]:
    name = f"b{uuid4().hex[:12]}"
    fs = s3fs.S3FileSystem(endpoint_url=s3_url, key=ACCESS, secret=SECRET)
    fs.mkdir(name)
    return name, fs


@pytest.fixture(scope="module")
def details(s3_url: str, bucket: tuple[str, s3fs.S3FileSystem]) -> dict[str, str]:
    return {
        "cloud_bucket_name": bucket[0],
        "cloud_region": "us-west-1",
        "endpoint_url": s3_url,
        "access_key": ACCESS,
        "secret_key": SECRET,
    }


def workspace(member: Member, details: dict[str, str], cloud_type: str = "aws", **fields: Any) -> str:
    body = {"name": "ws", "cloud_type": cloud_type, "cloud_specific_details": details, **fields}
    made = member.client.post("workspaces", content=json.dumps(body))
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def status(member: Member, dataset_id: str, *wanted: str) -> dict[str, Any]:
    def read() -> dict[str, Any] | None:
        shown: dict[str, Any] = member.client.get(f"datasets/{dataset_id}").json()
        return shown if shown["status"] in wanted else None

    return poll(read, f"{dataset_id} to be {wanted}", 30)


def manifest(member: Member, dataset_id: str) -> RawManifest:
    content = member.facade.storage.read_json(f"{layout.dataset(member.org, dataset_id)}/raw.json")
    return RawManifest.model_validate(content)


def test_a_data_set_comes_from_an_address(ann: Member, web: Web) -> None:
    web.files["/set.tar.gz"] = image_tar(["cat", "dog"])
    web.moved["/moved"] = "/set.tar.gz"
    dataset_id = ann.dataset(pull=f"{web.url}/moved?X-Amz-Signature=s3cretsignature")
    shown = status(ann, dataset_id, "present")
    assert manifest(ann, dataset_id).classes == {"cat": 2, "dog": 2}
    assert shown["pull"] == f"{web.url}/moved" and "message" not in shown
    assert web.asked[-2:] == ["/moved?X-Amz-Signature=s3cretsignature", "/set.tar.gz"]
    # an upload adds to it
    assert ann.upload(dataset_id, image_tar(["owl"])).status_code == 201
    assert manifest(ann, dataset_id).classes == {"cat": 2, "dog": 2, "owl": 2}


def test_a_data_set_comes_from_a_tar_in_a_bucket(ben: Member, bucket, details: dict[str, str]) -> None:
    name, fs = bucket
    fs.pipe_file(f"{name}/data/train.tar.gz", image_tar(["cat", "dog"]))
    dataset_id = ben.dataset(
        workspace=workspace(ben, details), cloud_file_path="/data/train.tar.gz", use_for=["training"]
    )
    shown = status(ben, dataset_id, "pull_complete")
    assert manifest(ben, dataset_id).classes == {"cat": 2, "dog": 2}
    assert shown["use_for"] == ["training"] and shown["cloud_file_path"] == "/data/train.tar.gz"


def test_a_data_set_comes_from_a_folder_of_a_bucket_archives_and_all(
    ben: Member, bucket, details: dict[str, str]
) -> None:
    name, fs = bucket
    fs.pipe_file(f"{name}/many/images_1.tar.gz", image_tar(["cat"]))
    fs.pipe_file(f"{name}/many/images_2.tar", image_tar(["dog"], mode="w"))
    fs.pipe_file(f"{name}/many/images/owl/0.png", image_png(3))
    fs.pipe_file(f"{name}/many/classes.txt", b"dog\ncat\nowl\n")
    dataset_id = ben.dataset(workspace=workspace(ben, details), cloud_file_path="many/")
    status(ben, dataset_id, "pull_complete")
    assert manifest(ben, dataset_id).classes == {"dog": 2, "cat": 2, "owl": 1}


@pytest.mark.parametrize("cloud_type", ["aws", "self_hosted"])
def test_a_data_set_comes_from_cloud_details(ann: Member, bucket, details: dict[str, str], cloud_type: str) -> None:
    name, fs = bucket
    fs.pipe_file(f"{name}/plain/images/cat/0.png", image_png(1))
    fs.pipe_file(f"{name}/plain/images/dog/0.png", image_png(2))
    cloud = {"cloud_type": cloud_type, "cloud_file_type": "folder"}
    specific = {**details, "cloud_file_path": "plain"}
    dataset_id = ann.dataset(cloud_details={**cloud, "cloud_specific_details": specific})
    shown = status(ann, dataset_id, "present")
    assert shown["cloud_details"] == {
        **cloud,
        "cloud_specific_details": {k: details[k] for k in ("cloud_bucket_name", "cloud_region", "endpoint_url")},
    }
    assert manifest(ann, dataset_id).classes == {"cat": 1, "dog": 1}


def test_jobs_wait_for_a_data_set_that_is_fetched(ann: Member, web: Web) -> None:
    web.files["/slow.tar.gz"] = image_tar(["cat", "dog"])
    web.held["/slow.tar.gz"] = threading.Event()
    web.half_sent.clear()
    dataset_id = ann.dataset(pull=f"{web.url}/slow.tar.gz")
    experiment_id = ann.experiment(train_datasets=[dataset_id])
    job_id = ann.start(f"experiments/{experiment_id}", "train")
    assert web.half_sent.wait(20)
    waiting = ann.job(f"experiments/{experiment_id}", job_id)
    assert waiting["status"] == "Pending" and dataset_id in waiting["result"]["message"]
    assert ann.client.get(f"datasets/{dataset_id}").json()["status"] == "in_progress"
    assert ann.upload(dataset_id, image_tar(["owl"])).status_code == 409
    web.held["/slow.tar.gz"].set()
    status(ann, dataset_id, "present")

    def released() -> bool:
        return ann.facade.prefect.run(job_id)["state"]["name"] == "Scheduled"

    poll(released, "the job to be released")


def test_jobs_end_when_their_data_cannot_be_fetched(ann: Member, web: Web) -> None:
    web.files["/bad.tar.gz"] = make_tar({"images/cat/0.png": b"no image", "images/dog/0.png": b"neither"})
    web.held["/bad.tar.gz"] = threading.Event()
    dataset_id = ann.dataset(pull=f"{web.url}/bad.tar.gz")
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id])}"
    job_id = ann.start(owner, "train")
    web.held["/bad.tar.gz"].set()
    assert "image" in status(ann, dataset_id, "invalid_pull")["message"]
    ann.wait(owner, job_id, "Error")


def test_a_pull_that_failed_is_tried_again_by_a_patch(ann: Member, web: Web) -> None:
    address = f"{web.url}/later.tar.gz"
    dataset_id = ann.dataset(pull=address)
    assert "404" in status(ann, dataset_id, "invalid_pull")["message"]
    web.files["/later.tar.gz"] = image_tar(["cat", "dog"])
    assert ann.client.patch(f"datasets/{dataset_id}", content=json.dumps({"pull": address})).status_code == 200
    status(ann, dataset_id, "present")
    asked = len(web.asked)
    again = ann.client.patch(f"datasets/{dataset_id}", content=json.dumps({"pull": address, "name": "new"}))
    assert again.json()["status"] == "present" and again.json()["name"] == "new"
    assert len(web.asked) == asked, "what is there was fetched again"


def test_a_data_set_is_deleted_while_it_is_fetched(ann: Member, web: Web) -> None:
    web.files["/gone.tar.gz"] = image_tar(["cat", "dog"])
    web.held["/gone.tar.gz"] = threading.Event()
    web.half_sent.clear()
    dataset_id = ann.dataset(pull=f"{web.url}/gone.tar.gz")
    assert web.half_sent.wait(20)
    threading.Timer(0.3, web.held["/gone.tar.gz"].set).start()
    assert ann.client.delete(f"datasets/{dataset_id}").status_code == 200
    assert ann.client.get(f"datasets/{dataset_id}").status_code == 404
    assert ann.facade.files_of(ann.org) == [] and ann.facade.files_of(".incoming") == []


def test_a_facade_that_starts_again_goes_on_fetching(
    web: Web, prefect_server: Prefect, settings: ApiSettings, tmp_path: Path
) -> None:
    web.files["/long.tar.gz"] = image_tar(["cat", "dog"])
    web.held["/long.tar.gz"] = threading.Event()
    web.half_sent.clear()
    mine = settings.model_copy(
        update={
            "home": tmp_path,
            "database_url": f"sqlite:///{tmp_path}/catalog.db",
            "storage_url": f"file://{tmp_path}/storage",
        }
    )
    first = serve(mine, prefect_server)
    member = next(first).member(org="again")
    dataset_id = member.dataset(pull=f"{web.url}/long.tar.gz")
    assert web.half_sent.wait(20)
    threading.Timer(0.3, web.held["/long.tar.gz"].set).start()
    first.close()
    second = serve(mine, prefect_server)
    try:
        member = next(second).member(org="again")
        status(member, dataset_id, "present")
        assert manifest(member, dataset_id).classes == {"cat": 2, "dog": 2}
    finally:
        second.close()


PRIVATE = "http://127.0.0.1:1/x.tar"
BAD_SOURCES: dict[str, dict[str, Any]] = {
    "loopback": {"pull": PRIVATE},
    "loopback by name": {"pull": "http://localhost:1/"},
    "loopback in hex": {"pull": "http://0x7f000001:1/"},
    "mapped": {"pull": "http://[::ffff:127.0.0.1]:1/"},
    "metadata": {"pull": "http://169.254.169.254/latest/meta-data/"},
    "file": {"pull": "file:///etc/passwd"},
    "s3": {"client_url": "s3://bucket/x"},
    "no host": {"client_url": "http:///x"},
    "no url": {"pull": "x"},
    "credentials": {"pull": "http://user:pass@example.com/"},
    "two places": {"pull": PRIVATE, "client_url": PRIVATE},
    "path alone": {"cloud_file_path": "x"},
    "unknown workspace": {"workspace": str(uuid4()), "cloud_file_path": "x"},
    "no cloud": {"cloud_details": {"cloud_specific_details": {"cloud_bucket_name": "abc"}}},
    "no bucket": {"cloud_details": {"cloud_type": "aws", "cloud_specific_details": {"access_key": "x"}}},
    "one key": {"cloud_details": {"cloud_type": "aws", "cloud_specific_details": {"bucket": "abc", "access_key": "x"}}},
    "no repository": {
        "cloud_details": {"cloud_type": "huggingface", "cloud_specific_details": {"cloud_file_path": "digits"}}
    },
    "no server": {"cloud_details": {"cloud_type": "self_hosted", "cloud_specific_details": {"bucket": "abc"}}},
    "private server": {
        "cloud_details": {
            "cloud_type": "self_hosted",
            "cloud_specific_details": {"bucket": "abc", "endpoint_url": "http://10.0.0.1:9000"},
        }
    },
    "path upwards": {
        "cloud_details": {
            "cloud_type": "aws",
            "cloud_specific_details": {"bucket": "abc", "cloud_file_path": "../other"},
        }
    },
}


@pytest.mark.parametrize("source", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_what_may_not_be_fetched_is_refused_and_leaves_nothing(ann: Member, source: dict[str, Any]) -> None:
    answer = ann.client.post("datasets", content=json.dumps({**DATASET, **source}))
    assert answer.status_code in (400, 404), answer.text
    assert ann.client.get("datasets").json() == []


def test_a_public_address_that_leads_to_a_private_one_is_not_followed(ann: Member, web: Web) -> None:
    web.moved["/trap"] = PRIVATE
    dataset_id = ann.dataset(pull=f"{web.url}/trap")
    assert "private network" in status(ann, dataset_id, "invalid_pull")["message"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "nothing/here"}, "nothing"),
        ({"cloud_bucket_name": "nosuchbucket"}, "nothing"),
        ({"secret_key": "wrong"}, "keys"),
    ],
)
def test_a_bucket_that_does_not_open_is_an_invalid_pull(
    ben: Member, bucket, details: dict[str, str], change: dict[str, str], said: str
) -> None:
    name, fs = bucket
    fs.pipe_file(f"{name}/there/x.tar", image_tar(["cat", "dog"], mode="w"))
    path = change.get("path", "there/x.tar")
    dataset_id = ben.dataset(workspace=workspace(ben, {**details, **change}), cloud_file_path=path)
    assert said in status(ben, dataset_id, "invalid_pull")["message"]
    assert ben.facade.files_of(ben.org) == []


def test_more_than_may_be_fetched_is_an_invalid_pull(ann: Member, web: Web, bucket, details: dict[str, str]) -> None:
    name, fs = bucket
    web.files["/huge.tar"] = b"x" * (PULL_MAX_BYTES + 1)
    fs.pipe_file(f"{name}/huge.tar", web.files["/huge.tar"])
    cloud = {"cloud_type": "aws", "cloud_specific_details": {**details, "cloud_file_path": "huge.tar"}}
    for source in ({"pull": f"{web.url}/huge.tar"}, {"cloud_details": cloud}):
        assert str(PULL_MAX_BYTES) in status(ann, ann.dataset(**source), "invalid_pull")["message"]


def test_a_cloud_without_its_driver_says_how_to_get_it(ben: Member) -> None:
    pytest.importorskip("s3fs")
    try:
        import adlfs  # noqa: F401
    except ImportError:
        body = {
            "name": "x",
            "cloud_type": "azure",
            "cloud_specific_details": {"cloud_bucket_name": "abc", "account_name": "abcdef", "access_key": "eA=="},
        }
        answer = ben.client.post("workspaces", content=json.dumps(body))
        assert answer.status_code == 501
        assert "prefect-trainyard[azure]" in answer.json()["error_desc"]


def test_a_workspace_lives_from_create_to_delete(ben: Member, details: dict[str, str]) -> None:
    first = workspace(ben, details, name="first")
    second = workspace(ben, details, name="second", description="mine")
    listed = ben.client.get("workspaces?sort=name-ascending").json()
    assert [w["id"] for w in listed["workspaces"]] == [first, second]
    assert listed["pagination_info"]["total_records"] == 2
    changed = ben.client.patch(
        f"workspaces/{second}", content=json.dumps({"cloud_specific_details": {"cloud_region": "eu-west-1"}})
    ).json()
    assert changed["cloud_specific_details"]["cloud_region"] == "eu-west-1" and changed["description"] == "mine"
    other_cloud = ben.client.patch(f"workspaces/{second}", content=json.dumps({"cloud_type": "gcp"}))
    assert other_cloud.status_code == 400
    experiment_id = ben.experiment(workspace=second)
    assert ben.client.get(f"experiments/{experiment_id}").json()["workspace"] == second
    refused = ben.client.delete(f"workspaces/{second}")
    assert refused.status_code == 400 and experiment_id in refused.json()["error_desc"]
    ben.client.delete(f"experiments/{experiment_id}")
    assert ben.client.delete(f"workspaces/{second}").json()["id"] == second
    assert ben.client.get(f"workspaces/{second}").status_code == 404


def test_a_workspace_of_another_org_is_not_there(ben: Member, facade: Facade, details: dict[str, str]) -> None:
    mine = workspace(ben, details)
    eve = facade.member(user="eve", release="5.5", root="orgs")
    for method in ("GET", "PATCH", "DELETE"):
        assert eve.client.request(method, f"workspaces/{mine}", content="{}").status_code == 404
    used = eve.client.post("datasets", content=json.dumps({**DATASET, "workspace": mine, "cloud_file_path": "x"}))
    assert used.status_code == 404
    named = eve.client.post(
        "experiments", content=json.dumps({"network_arch": "classification_pyt", "workspace": mine})
    )
    assert named.status_code == 400
    assert eve.client.get("workspaces").json()["workspaces"] == []


def test_what_opens_a_cloud_is_kept_encrypted_and_shown_to_nobody(
    ben: Member, web: Web, s3_url: str, settings: ApiSettings
) -> None:
    sentinel = f"sentinel{uuid4().hex}"
    opened = {"cloud_bucket_name": "abc", "endpoint_url": s3_url, "access_key": sentinel, "secret_key": sentinel}
    workspace_id = workspace(ben, opened)
    dataset_ids = [
        ben.dataset(pull=f"{web.url}/none?token={sentinel}"),
        ben.dataset(cloud_details={"cloud_type": "aws", "cloud_specific_details": opened}),
        ben.dataset(docker_env_vars={"WANDB_API_KEY": sentinel}, client_id=sentinel, client_secret=sentinel),
    ]
    experiment_id = ben.experiment(docker_env_vars={"WANDB_API_KEY": sentinel})
    answers = [ben.client.get(f"workspaces/{workspace_id}").text, ben.client.get(f"experiments/{experiment_id}").text]
    for dataset_id in dataset_ids[:2]:
        status(ben, dataset_id, "invalid_pull")
    answers += [ben.client.get(f"datasets/{dataset_id}").text for dataset_id in dataset_ids]
    wrong = json.dumps({"name": "x", "cloud_type": "aws", "cloud_specific_details": {"access_key": [sentinel]}})
    answers.append(ben.client.post("workspaces", content=wrong).text)
    assert not [answer for answer in answers if sentinel in answer]
    assert files_with(sentinel, settings.home) == []


def test_variables_of_jobs_are_shown_by_name_and_kept_when_they_come_back(ann: Member) -> None:
    experiment_id = ann.experiment(docker_env_vars={"WANDB_API_KEY": "k3y", "WANDB_PROJECT": "digits"})
    path = f"experiments/{experiment_id}"
    shown = ann.client.get(path).json()["docker_env_vars"]
    assert set(shown) == {"WANDB_API_KEY", "WANDB_PROJECT"} and "k3y" not in shown.values()
    back = {**shown, "WANDB_MODE": "offline"}
    assert set(ann.client.patch(path, content=json.dumps({"docker_env_vars": back})).json()["docker_env_vars"]) == set(
        back
    )
    ann.client.patch(path, content=json.dumps({"name": "new"}))
    assert set(ann.client.get(path).json()["docker_env_vars"]) == set(back)
    cleared = ann.client.patch(path, content=json.dumps({"docker_env_vars": {}}))
    assert cleared.json()["docker_env_vars"] == {}


def test_variables_reach_a_job_as_an_encrypted_file_that_no_list_shows(ann: Member, settings: ApiSettings) -> None:
    dataset_id = ann.filled()
    variables = {"WANDB_API_KEY": "k3y", "WANDB_PROJECT": "digits"}
    owner = f"experiments/{ann.experiment(train_datasets=[dataset_id], docker_env_vars=variables)}"
    job_id = ann.start(owner, "train")
    sealed = ann.facade.storage.read_bytes(layout.secrets(ann.org, job_id))
    assert json.loads(Fernet(settings.secrets_key_file.read_bytes().strip()).decrypt(sealed)) == variables
    assert ann.facade.prefect.run(job_id)["state"]["name"] == "Scheduled", "nothing is in its way"
    listed = ann.client.get(f"{owner}/jobs/{job_id}:list_files?retrieve_logs=true&retrieve_specs=true")
    assert not [name for name in listed.json() if "secrets" in name]
    asked = ann.client.get(f"{owner}/jobs/{job_id}:download_selective_files?file_lists=.secrets&tar_files=false")
    assert asked.status_code == 404

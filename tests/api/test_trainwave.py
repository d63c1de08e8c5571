"""The Trainwave dialect: each example of its document, both forms of its answers, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from facade_support import Facade, make_tar
from prefect_trainyard.api.services.commands.rids import read_id, rid_of
from support import files_with, poll
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

#: The body of the document's example, but for the project, which each org has its own of.
EXAMPLE: dict[str, Any] = {
    "name": "mnist-training",
    "description": "Training MNIST classifier",
    "gpu_type": "RTX A5000",
    "gpus": 1,
    "cpu_cores": 4,
    "memory_gb": 16,
    "hdd_size_mb": 51200,
    "image": "trainwave/pytorch:2.3.1",
    "setup_command": "pip install -r requirements.txt",
    "run_command": "python train.py",
    "env_vars": {"WANDB_API_KEY": "wandb-sentinel", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"},
    "expires": "4h",
}

#: As the command line sends it, zeros and empty words included.
CONFIG: dict[str, Any] = {
    "name": "digits",
    "image": "",
    "setup_command": "",
    "run_command": "python train.py",
    "hdd_size_mb": 20,
    "memory_mb": 0,
    "cpus": 0,
    "gpus": 0,
    "gpu_type": "",
    "env_vars": {"GREETING": "hello"},
}

CODE = make_tar({"train.py": b"print('hello')\n", "data/set.zip": b"PK\3\4 what a zip begins with"})


@dataclass(frozen=True)
class Waver:
    """A user with an API key."""

    facade: Facade
    org: str
    key: str
    client: httpx.Client

    def post(self, path: str, body: object = None) -> httpx.Response:
        return self.client.post(path, content=json.dumps(body) if body is not None else b"")

    def create(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("jobs/", {"run_command": "python train.py", **fields})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def launch(self, **fields: Any) -> dict[str, Any]:
        answer = self.post("jobs/", {"project": "default", "config": {**CONFIG, **fields}})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"jobs/{job_id}/")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, job_id: str, state: str) -> dict[str, Any]:
        return poll(lambda: job if (job := self.job(job_id))["state"] == state else None, f"{job_id} to be {state}", 30)


@pytest.fixture
def make_waver(facade: Facade) -> Callable[..., Waver]:
    def make(org: str | None = None, user: str = "ann@example.com") -> Waver:
        org = org or f"org{uuid4().hex[:12]}"
        key = facade.key(org, user)
        client = httpx.Client(base_url=f"{facade.url}/api/v1/", headers={"X-API-KEY": key}, timeout=60)
        return Waver(facade, org, key, client)

    return make


@pytest.fixture
def ann(make_waver: Callable[..., Waver]) -> Waver:
    return make_waver()


def has_shape(example: Any, shown: Any, where: str = "") -> None:
    """Check that an answer has every field of an example, of the same type; null stands for what is not known yet."""
    if isinstance(example, dict):
        assert isinstance(shown, dict), where
        for name, value in example.items():
            assert name in shown, f"{where}.{name}"
            has_shape(value, shown[name], f"{where}.{name}")
    elif isinstance(example, list):
        assert isinstance(shown, list), where
        for item in shown:
            has_shape(example[0], item, f"{where}[]")
    elif isinstance(example, float | int) and not isinstance(example, bool):
        assert shown is None or isinstance(shown, float | int), (where, shown)
    elif example is not None:
        assert shown is None or isinstance(shown, type(example)), (where, shown)


# --- the examples of the document


def test_list_jobs(ann: Waver) -> None:
    for number in range(3):
        ann.create(name=f"training-job-{number}")
    project = ann.job(ann.create()["id"])["data"]["project"]
    shown = ann.client.get("jobs/", params={"project": project, "limit": 2}).json()
    example = {
        "success": True,
        "data": {
            "count": 25,
            "next": "https://backend.trainwave.ai/api/v1/jobs/?offset=20",
            "previous": None,
            "results": [
                {
                    "id": "j-789xyz",
                    "rid": "training-job-1",
                    "created_at": "2024-03-21T09:00:00Z",
                    "state": "RUNNING",
                    "project": "p-def456",
                    "owner": {"id": "u-abc123", "email": "[email protected]", "username": "johndoe"},
                    "total_cost": 25.5,
                    "gpu_hours": 2.5,
                    "metrics": {"gpu_utilization": 95.2, "memory_usage": 14.3},
                }
            ],
        },
    }
    has_shape(example, shown)
    assert shown["success"] is True
    assert shown["data"]["count"] == shown["count"] == 4
    assert shown["data"]["previous"] is None
    assert shown["data"]["results"][0]["owner"]["email"] == "ann@example.com"
    rest = ann.client.get(shown["data"]["next"]).json()
    names = [job["name"] for job in [*shown["data"]["results"], *rest["data"]["results"]]]
    assert names == ["", "training-job-2", "training-job-1", "training-job-0"]
    assert rest["data"]["next"] is None
    assert ann.client.get(rest["data"]["previous"]).json()["results"] == shown["results"]


def test_list_jobs_by_status(ann: Waver) -> None:
    waiting, running = ann.create()["id"], ann.create()["id"]
    ann.facade.prefect.move(running, "RUNNING")
    ann.wait(running, "RUNNING")
    found = ann.client.get("jobs/?status=running").json()
    assert [job["id"] for job in found["results"]] == [running]
    assert [job["id"] for job in ann.client.get("jobs/?status=pending").json()["results"]] == [waiting]
    assert ann.client.get("jobs/?status=completed").json()["count"] == 0
    assert ann.client.get("jobs/?status=failed").json()["data"]["results"] == []
    refused = ann.client.get("jobs/?status=sleeping")
    assert refused.status_code == 400
    assert refused.json()["success"] is False


def test_create_job(ann: Waver) -> None:
    project = ann.client.get("projects/").json()["results"][0]["rid"]
    before = datetime.now(UTC)
    answer = ann.post("jobs/", {**EXAMPLE, "project": project})
    assert answer.status_code == 201
    job = answer.json()["data"]
    assert job["id"].startswith("j-")
    assert job["project"] == project
    assert (job["gpu_type"], job["gpus"], job["cpu_cores"], job["memory_gb"]) == ("RTX A5000", 1, 4, 16)
    assert job["state"] == "LAUNCHING"
    expires_at = datetime.fromtimestamp(answer.json()["config"]["expires_at"], UTC)
    assert timedelta(hours=4) - timedelta(minutes=1) < expires_at - before < timedelta(hours=4, minutes=1)
    run = ann.facade.prefect.run(answer.json()["id"])
    assert run["parameters"]["command"]["run_command"] == "python train.py"
    assert run["job_variables"] == {
        "cpus": 4,
        "gpus": 1,
        "gpu_type": "RTX A5000",
        "memory_mb": 16384,
        "disk_mb": 51200,
        "max_attempts": 1,
        "cpu_request": "4",
        "mem_limit": "16384m",
        "memory_limit": "16384Mi",
        "container_create_kwargs": {"device_requests": [{"count": 1, "capabilities": [["gpu"]]}]},
    }
    assert run["state_type"] == "SCHEDULED"
    assert run["state_name"] == "Scheduled"


def test_create_job_in_python(ann: Waver) -> None:
    headers = {"Accept": "application/json", "X-API-KEY": ann.key, "Content-Type": "application/json"}
    job_config = {"name": "mnist-training", "gpu_type": "RTX A5000", "gpus": 1, "run_command": "python train.py"}
    response = httpx.post(f"{ann.facade.url}/api/v1/jobs/", headers=headers, json=job_config)
    assert response.status_code == 201
    assert response.json()["data"]["id"]


def test_get_job_details(ann: Waver) -> None:
    job_id = ann.create(**EXAMPLE)["data"]["id"]
    example = {
        "success": True,
        "data": {
            "id": "j-789xyz",
            "name": "mnist-training",
            "state": "RUNNING",
            "created_at": "2024-03-21T09:00:00Z",
            "started_at": "2024-03-21T09:01:00Z",
            "finished_at": None,
            "project": "p-abc123",
            "gpu_type": "RTX A5000",
            "gpus": 1,
            "cpu_cores": 4,
            "memory_gb": 16,
            "cost_per_hour": 2.5,
            "total_cost": 5.0,
            "metrics": {"gpu_utilization": 95.2, "memory_usage": 14.3},
        },
    }
    shown = ann.job(job_id)
    has_shape(example, shown)
    assert shown["data"]["finished_at"] is None
    ann.facade.prefect.move(shown["id"], "RUNNING")
    running = ann.wait(job_id, "RUNNING")
    assert running["data"]["started_at"] is not None


def test_stop_job(ann: Waver) -> None:
    job_id = ann.create()["data"]["id"]
    stopped = ann.post(f"jobs/{job_id}/stop/")
    assert stopped.status_code == 200
    assert stopped.json()["data"]["state"] == "USER_CANCELLED"
    assert ann.wait(job_id, "USER_CANCELLED")["data"]["finished_at"] is not None
    again = ann.post(f"jobs/{job_id}/stop/")
    assert again.status_code == 409
    assert "USER_CANCELLED" in again.json()["error"]["message"]


def test_list_projects_and_organizations(ann: Waver) -> None:
    made = ann.post("projects/", {"name": "vision", "organization": ann.org})
    assert made.status_code == 201
    assert made.json()["name"] == made.json()["data"]["name"] == "vision"
    listed = ann.client.get("projects/", params={"org": ann.org}).json()
    assert [project["name"] for project in listed["data"]["results"]] == ["default", "vision"]
    assert ann.post("projects/", {"name": "vision"}).status_code == 409
    orgs = ann.client.get("organizations/").json()
    assert orgs["success"] is True
    assert [org["name"] for org in orgs["results"]] == [ann.org]
    assert ann.client.get("projects/", params={"org": orgs["results"][0]["rid"]}).status_code == 200
    assert ann.client.get("projects/?org=other").status_code == 404


@pytest.mark.parametrize("name", ["cpu", "memory", "network", "gpu_utilization", "gpu_memory", "disk"])
def test_get_job_metrics(ann: Waver, name: str) -> None:
    job_id = ann.create()["data"]["id"]
    shown = ann.client.get(f"metrics/{name}/", params={"job_id": job_id})
    assert shown.status_code == 200
    assert shown.json()["data"] == {"metric": name, "job_id": job_id, "unit": shown.json()["unit"], "points": []}


def test_metrics_that_there_are_not(ann: Waver) -> None:
    refused = ann.client.get("metrics/heat/", params={"job_id": ann.create()["id"]})
    assert refused.status_code == 400
    assert "gpu_utilization" in refused.json()["error"]["message"]
    assert ann.client.get("metrics/cpu/").status_code == 400


def test_errors_have_the_documents_form(ann: Waver) -> None:
    unknown = ann.client.get(f"jobs/{uuid4()}/")
    assert unknown.status_code == 404
    assert unknown.json() == {
        "success": False,
        "error": {"code": "not_found", "message": unknown.json()["error"]["message"]},
    }
    nobody = httpx.get(f"{ann.facade.url}/api/v1/jobs/")
    assert nobody.status_code == 401
    assert nobody.json()["error"]["code"] == "not_authenticated"


# --- what the command line needs


def test_a_job_of_the_command_line_waits_for_its_code(ann: Waver) -> None:
    job = ann.launch(expires_at=int(datetime.now(UTC).timestamp()) + 3600)
    assert job["state"] == "SUBMIT_CODE"
    assert isinstance(job["total_cost"], int)
    assert isinstance(job["project"], dict)
    assert isinstance(job["config"]["expires_at"], int)
    assert job["cloud_offer"]["cpus"] == 1
    assert ann.facade.prefect.run(job["id"])["state_name"] == "AwaitingCode"
    early = ann.post(f"jobs/{job['id']}/code_submission/")
    assert early.status_code == 409
    assert "upload_url" in early.json()["error"]["message"]

    # No header says who sends it: the address does.
    sent = httpx.put(job["upload_url"], content=CODE, headers={"Content-Type": "application/gzip"})
    assert sent.status_code == 200, sent.text
    assert ann.job(job["id"])["state"] == "SUBMIT_CODE"
    assert ann.post(f"jobs/{job['rid']}/code_submission/").status_code == 200
    launched = ann.wait(job["id"], "LAUNCHING")
    assert launched["upload_url"] == ""
    assert ann.facade.prefect.run(job["id"])["state_name"] == "Scheduled"
    assert ann.facade.storage.read_bytes(f"{ann.org}/jobs/{job['id']}/code.tar.gz") == CODE
    assert ann.post(f"jobs/{job['id']}/code_submission/").status_code == 200
    assert httpx.put(job["upload_url"], content=CODE).status_code == 409


def test_hostile_code_is_refused_and_leaves_nothing(ann: Waver, tmp_path: Path) -> None:
    job = ann.launch()
    for archive in (make_tar({"../../outside.py": b""}), b"no tar at all", CODE[:50], b""):
        refused = httpx.put(job["upload_url"], content=archive)
        assert refused.status_code == 400, refused.text
        assert refused.json()["success"] is False
    assert not ann.facade.storage.exists(f"{ann.org}/jobs/{job['id']}/code.tar.gz")
    assert list((ann.facade.storage.root or ann.facade.settings.incoming).glob(".incoming/*")) == []
    assert httpx.put(f"{ann.facade.url}/api/v1/code/guessed", content=CODE).status_code == 404
    large = httpx.put(job["upload_url"], content=bytes(ann.facade.settings.upload_max_bytes + 1))
    assert large.status_code == 413


def test_states_of_a_job(ann: Waver) -> None:
    prefect = ann.facade.prefect
    ends = {
        (
            "FAILED",
            "Failed",
            "JobFailed: The command ended with exit code 3. Its log says more.",
        ): "USER_PROCESS_FAILED",
        (
            "FAILED",
            "Failed",
            "JobFailed: The setup command ended with exit code 3. Its log says more.",
        ): "USER_PROCESS_FAILED",
        ("FAILED", "Failed", "JobFailed: The command was killed: it used 5 MiB."): "SYSTEM_TERMINATED",
        ("FAILED", "Failed", "ArchiveError: The archive is damaged."): "ERROR",
        ("FAILED", "TimedOut", "The job was not done when it expired."): "SYSTEM_TERMINATED",
        ("CRASHED", "Crashed", "The process of the run was killed."): "SYSTEM_TERMINATED",
        ("CANCELLED", "Cancelled", "Cancelled by the user."): "USER_CANCELLED",
    }
    for (state_type, name, message), word in ends.items():
        job_id = ann.create()["id"]
        prefect.move(job_id, "RUNNING")
        assert ann.wait(job_id, "RUNNING")["instances"][0]["state"] == "RUNNING"
        prefect.move(job_id, state_type, name, message)
        shown = ann.wait(job_id, word)
        assert shown["exit_code"] == (3 if word == "USER_PROCESS_FAILED" else None)
        found = ann.client.get("jobs/", params={"status": word}).json()
        assert job_id in [job["id"] for job in found["results"]]
        assert {job["state"] for job in found["results"]} == {word}


def test_a_run_from_the_form_of_prefect_is_a_job_here(ann: Waver) -> None:
    ann.create()  # so that the org is known
    parameters = {"org": ann.org, "command": {"run_command": "python train.py", "cpus": 2}}
    job_id = ann.facade.prefect.start_by_hand("run/command", parameters)
    poll(lambda: ann.client.get(f"jobs/{job_id}/").status_code == 200, "the job", 30)
    shown = ann.job(job_id)
    assert shown["project"]["name"] == "default"
    assert shown["config"]["cpus"] == 2
    assert shown["owner"] is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"run_command": ""}, "run_command"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "0h"}, "expires"),
        ({"gpus": -1}, "gpus"),
        ({"env_vars": {"A=B": "x"}}, "A=B"),
        ({"env_vars": {"PREFECT__FLOW_RUN_ID": "x"}}, "PREFECT__FLOW_RUN_ID"),
        ({"config": {"name": "x"}}, "run_command"),
        ({"config": {**CONFIG, "expires_at": 1000}}, "past"),
        ({"memory_gb": "much"}, "memory_gb"),
    ],
)
def test_bad_jobs_are_refused_and_leave_nothing(ann: Waver, fields: dict[str, Any], words: str) -> None:
    before = ann.facade.prefect.count_runs()
    refused = ann.post("jobs/", {"run_command": "python train.py", **fields})
    assert refused.status_code == 400, refused.text
    assert words in refused.json()["error"]["message"]
    assert ann.facade.prefect.count_runs() == before
    assert ann.client.get("jobs/").json()["count"] == 0


def test_what_this_yard_has_not_is_said_so(ann: Waver) -> None:
    assert ann.post("jobs/", {"config": {**CONFIG, "interactive": True}}).status_code == 501
    assert ann.post("jobs/", {"config": {**CONFIG, "clouds": ["AWS"]}}).status_code == 501
    assert ann.client.get("ssh-proxy/").status_code == 501
    assert ann.post("ssh-keys/", {"name": "mine", "public_key": "ssh-ed25519 AAAA"}).status_code == 501


def test_a_request_that_is_sent_again_makes_one_job(ann: Waver) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    body = json.dumps({"project": "default", "config": CONFIG})
    first, again = (ann.client.post("jobs/", content=body, headers=headers) for _ in range(2))
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert ann.client.get("jobs/").json()["count"] == 1


def test_a_project_may_be_named_by_id_rid_or_name(ann: Waver) -> None:
    project = ann.post("projects/", {"name": "vision"}).json()
    for said in (project["id"], project["rid"], "vision"):
        assert ann.create(project=said)["project"] == project["data"]
    assert ann.client.get("jobs/", params={"project": "vision"}).json()["count"] == 3
    assert ann.post("jobs/", {"run_command": "x", "project": "p-abc123"}).status_code == 404


def test_who_i_am(ann: Waver) -> None:
    shown = ann.client.get("users/me/").json()
    assert shown["email"] == shown["data"]["email"] == "ann@example.com"
    assert read_id(shown["rid"]) == read_id(shown["id"])


# --- secrets


def test_secrets_reach_the_job_and_nobody_else(ann: Waver) -> None:
    path = f"organizations/{ann.org}/secrets/"
    body = {"secrets": [{"name": "DEPLOY_TOKEN", "value": "deploy-sentinel"}]}
    assert ann.post(path, body).status_code == 201
    answers = [ann.client.get(path).text]
    job = ann.launch(env_vars={"WANDB_API_KEY": "wandb-sentinel"})
    answers += [json.dumps(job), json.dumps(ann.job(job["id"])), ann.client.get("jobs/").text]
    answers.append(json.dumps(ann.facade.prefect.run(job["id"])))
    sealed = ann.facade.storage.read_bytes(f"{ann.org}/jobs/{job['id']}/.secrets")
    answers.append(sealed.decode())
    for secret in ("deploy-sentinel", "wandb-sentinel"):
        assert files_with(secret, ann.facade.settings.home) == []
    assert all("sentinel" not in answer for answer in answers)
    box = ann.facade.app.state.services.variables._box
    assert json.loads(box.decrypt(sealed.decode())) == {
        "DEPLOY_TOKEN": "deploy-sentinel",
        "WANDB_API_KEY": "wandb-sentinel",
    }
    assert ann.facade.files_of(ann.org) == [file for file in ann.facade.files_of(ann.org) if ".secrets" not in file]


def test_secrets_of_a_project_win_over_those_of_the_org(ann: Waver) -> None:
    project = ann.post("projects/", {"name": "vision"}).json()["id"]
    path = f"organizations/{ann.org}/secrets/"
    ann.post(path, {"secrets": [{"name": "TOKEN", "value": "of the org"}]})
    ann.post(path, {"secrets": [{"name": "TOKEN", "value": "of the project"}], "project": "vision"})
    box = ann.facade.app.state.services.variables._box
    for name, value in (("vision", "of the project"), ("default", "of the org")):
        job = ann.create(project=name)["id"]
        sealed = ann.facade.storage.read_bytes(f"{ann.org}/jobs/{job}/.secrets").decode()
        assert json.loads(box.decrypt(sealed)) == {"TOKEN": value}
    shown = ann.client.get(path).json()["results"]
    assert sorted(secret["project"] or "" for secret in shown) == ["", project]
    assert ann.client.delete(f"{path}TOKEN/").status_code == 204
    assert ann.client.get(path).json()["count"] == 0
    assert ann.client.delete(f"{path}TOKEN/").status_code == 404


def test_nothing_of_another_org_is_to_be_had(ann: Waver, make_waver: Callable[..., Waver]) -> None:
    eve = make_waver()
    job = ann.launch()
    project = ann.post("projects/", {"name": "vision"}).json()
    for said in (job["id"], job["rid"]):
        for answer in (
            eve.client.get(f"jobs/{said}/"),
            eve.post(f"jobs/{said}/stop/"),
            eve.post(f"jobs/{said}/code_submission/"),
            eve.client.get("metrics/cpu/", params={"job_id": said}),
        ):
            assert answer.status_code == 404
            assert answer.json() == eve.client.get(f"jobs/{uuid4()}/").json()
    assert eve.client.get("jobs/").json()["count"] == 0
    assert eve.client.get("jobs/", params={"org_id": ann.org}).status_code == 404
    for said in (project["id"], project["rid"], "vision"):
        assert eve.post("jobs/", {"run_command": "x", "project": said}).status_code == 404
    assert eve.client.get(f"organizations/{ann.org}/secrets/").status_code == 404


# --- the log as a socket


def frames(waver: Waver, job_id: str, key: str) -> list[dict[str, Any]]:
    url = waver.facade.url.replace("http", "ws")
    found: list[dict[str, Any]] = []
    with connect(f"{url}/ws/logs/{job_id}/?api_key={key}") as socket:
        while True:
            try:
                found.append(json.loads(socket.recv(timeout=20)))
            except ConnectionClosed:
                return found


def test_the_socket_sends_the_log_and_closes_when_the_job_has_ended(ann: Waver) -> None:
    job = ann.create()
    log = f"{ann.org}/logs/{job['id']}.txt"
    ann.facade.storage.append_text(log, '2026-11-21T09:00:00 INFO {"loss": 0.5}\n')
    assert ann.post(f"jobs/{job['id']}/stop/").status_code == 200
    received = frames(ann, job["rid"], ann.key)
    assert {"message": '{{"loss": 0.5}}', "ts": received[1]["ts"]} == received[1]
    assert isinstance(received[1]["ts"], int)
    assert received[1]["ts"] % 10**9 == 0
    assert not [frame for frame in received if "EOF" in frame["message"]]


def test_the_socket_is_closed_to_strangers(ann: Waver, make_waver: Callable[..., Waver]) -> None:
    job = ann.create()
    url = ann.facade.url.replace("http", "ws")
    for key in ("", "ty-wrong", make_waver().key):
        with pytest.raises(InvalidStatus) as refused, connect(f"{url}/ws/logs/{job['id']}/?api_key={key}"):
            pass
        assert refused.value.response.status_code == 403


# --- logins of command lines


def test_a_command_line_gets_a_key_when_its_user_has_approved_it(ann: Waver) -> None:
    base = f"{ann.facade.url}/api/v1/cli"
    begun = httpx.post(f"{base}/create_session/", json={"name": "<b>laptop</b>"}).json()
    waiting = httpx.post(f"{base}/session_status/", json={"token": begun["token"]})
    assert waiting.status_code == 202
    page = httpx.get(begun["url"])
    assert "&lt;b&gt;laptop&lt;/b&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert begun["token"] not in begun["url"]
    assert httpx.post(begun["url"], data={"key": "ty-wrong"}).status_code == 401
    assert httpx.post(begun["url"], data={"key": ann.key}).status_code == 200
    answer = httpx.post(f"{base}/session_status/", json={"token": begun["token"]})
    assert answer.status_code == 200
    key = answer.json()["api_token"]
    assert key != ann.key
    shown = httpx.get(f"{ann.facade.url}/api/v1/users/me/", headers={"X-Api-Key": key}).json()
    assert shown["email"] == "ann@example.com"
    # Once is all.
    assert httpx.post(f"{base}/session_status/", json={"token": begun["token"]}).status_code == 404
    assert httpx.get(begun["url"]).status_code == 404


def test_a_configuration_is_filled_in_on_a_page(ann: Waver, make_waver: Callable[..., Waver]) -> None:
    found = {"name": "digits", "env_vars": [{"key": "TOKEN", "value": "sentinel"}]}
    begun = ann.post("cli/config_session/", found).json()
    path = f"cli/{begun['token']}/config/"
    assert ann.client.get(path).json()["status"] == "pending"
    page = httpx.get(begun["url"])
    assert 'value="digits"' in page.text
    assert "sentinel" not in page.text
    assert httpx.post(begun["url"], data={"name": "new", "gpus": "many"}).status_code == 400
    assert httpx.post(begun["url"], data={"name": "new", "gpus": "2", "image": ""}).status_code == 200
    shown = ann.client.get(path).json()
    assert shown["status"] == "complete"
    assert shown["config"] == {"organization": ann.org, "name": "new", "gpus": 2, "env_vars": found["env_vars"]}
    assert make_waver().client.get(path).status_code == 404


def test_rids_and_ids_are_the_same_thing() -> None:
    id = uuid4()
    assert read_id(rid_of("j", id)) == read_id(str(id)) == id
    assert read_id("j-789xyz") is None

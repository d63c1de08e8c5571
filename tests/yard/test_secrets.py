"""Secrets that users give to a whole yard are nowhere but where they are used."""

from __future__ import annotations

import gzip
import json
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import httpx
import psutil
from support import QUICK_TRAIN, Yard, poll, upload_dataset, wait_for_job


class Sentinels(dict[str, str]):
    """A text of its own for every place where a secret can be given."""

    def __missing__(self, place: str) -> str:
        self[place] = f"sentinel{uuid.uuid4().hex}"
        return self[place]

    def found_in(self, content: bytes) -> list[str]:
        return [place for place, text in self.items() if text.encode() in content]


def files_with(home: Path, sentinels: Sentinels) -> dict[str, list[str]]:
    found = {}
    for file in home.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content += gzip.decompress(content)
            if places := sentinels.found_in(content):
                found[str(file.relative_to(home))] = places
    return found


def test_secrets_are_in_no_log_no_database_no_file_and_no_answer(yard: Yard, digits: Path) -> None:
    secret = Sentinels({"api key": yard.key})
    answers: list[str] = []

    def keep(answer: httpx.Response, *statuses: int) -> Any:
        answers.append(answer.text)
        assert answer.status_code in statuses, answer.text
        return answer.json() if answer.text else None

    with yard.client() as client:
        secret["token"] = client.headers["Authorization"].split()[1]
        root = f"{yard.api_url}/api/v1"
        variables = {"WANDB_API_KEY": secret["experiment variable"]}
        cloud = {
            "cloud_bucket_name": "bucket",
            "cloud_region": "eu-west-1",
            "access_key": secret["access key"],
            "secret_key": secret["secret key"],
        }
        details = {"cloud_type": "aws", "cloud_specific_details": cloud}
        workspace = keep(client.post("workspaces", json={"name": "w", **details}), 201)["id"]
        keep(client.get(f"workspaces/{workspace}"), 200)
        keep(client.get("workspaces"), 200)

        train_set = upload_dataset(client, digits / "train_1.tar.gz")
        given = {"client_secret": secret["client secret"], "docker_env_vars": {"WANDB_API_KEY": secret["set variable"]}}
        keep(client.patch(f"datasets/{train_set}", json=given), 200)
        experiment = keep(
            client.post(
                "experiments",
                json={
                    "network_arch": "classification_pyt",
                    "train_datasets": [train_set],
                    "eval_dataset": train_set,
                    "encryption_key": "nvidia_tlt",
                    "docker_env_vars": variables,
                },
            ),
            201,
        )["id"]
        jobs = {
            f"datasets/{train_set}": keep(client.post(f"datasets/{train_set}/jobs", json={"action": "convert"}), 201),
            f"experiments/{experiment}": keep(
                client.post(f"experiments/{experiment}/jobs", json={"action": "train", "specs": QUICK_TRAIN}), 201
            ),
        }

        # what is wrong is named, and not repeated
        wrong = secret["wrong input"]
        for path, body in (
            ("experiments", {"network_arch": "classification_pyt", "docker_env_vars": {"WANDB_API_KEY": [wrong]}}),
            ("experiments", {"network_arch": "classification_pyt", "docker_env_vars": {"OTHER": wrong}}),
            ("experiments", {"network_arch": "classification_pyt", "encryption_key": wrong * 10}),
            ("workspaces", {"cloud_type": "aws", "cloud_specific_details": {"secret_key": wrong}}),
            (
                "workspaces",
                {"cloud_type": "azure", "cloud_specific_details": {"account_name": wrong}},
            ),
            ("datasets", {"type": "image_classification", "format": "x", "client_secret": wrong}),
            ("datasets", {"type": "image_classification", "format": "raw", "client_url": f"http://u:{wrong}@h/x"}),
        ):
            keep(client.post(path, json=body), 400)
        keep(httpx.post(f"{root}/login", json={"ngc_api_key": f"ty-{wrong}"}), 401)
        keep(httpx.get(f"{root}/login/ty-{wrong}"), 401)
        keep(httpx.get(f"{root}/users/me/", headers={"X-Api-Key": wrong}), 401)
        keep(httpx.get(f"{root}/users/me/", headers={"Authorization": f"Bearer {wrong}"}), 401)

        given = {"secrets": [{"name": "PLAIN_NAME", "value": secret["org secret"]}]}
        keep(client.post(f"{root}/organizations/acme/secrets/", json=given), 201)
        keep(client.get(f"{root}/organizations/acme/secrets/"), 200)
        project = keep(client.post(f"{root}/projects/", json={"name": f"p{uuid.uuid4().hex[:8]}"}), 201)
        command = {
            "project": project.get("id") or project["data"]["id"],
            "env_vars": {"MY_TOKEN": secret["job variable"]},
            # as carelessly as users do it
            "run_command": "env; echo got $PLAIN_NAME and $MY_TOKEN; echo $MY_TOKEN >&2; exit 3",
        }
        made = keep(client.post(f"{root}/jobs/", json=command), 201)
        run_id = made.get("id") or made["data"]["id"]

        for owner, job_id in jobs.items():
            assert wait_for_job(client, f"{owner}/jobs/{job_id}")["status"] == "Done"
            for end in ("", ":list_files?retrieve_logs=true&retrieve_specs=true", "/logs"):
                answers.append(client.get(f"{owner}/jobs/{job_id}{end}").text)
            keep(client.get(owner), 200)
        ended = ("SUCCESS", "USER_PROCESS_FAILED", "SYSTEM_TERMINATED", "USER_CANCELLED")

        def state() -> str | None:
            shown = json.dumps(client.get(f"{root}/jobs/{run_id}/").json())
            return shown if any(f'"{word}"' in shown for word in ended) else None

        shown = poll(state, "the end of the command", 120)
        assert "USER_PROCESS_FAILED" in shown
        answers.append(shown)

        prefect = httpx.post(f"{yard.prefect_url}/api/flow_runs/filter", json={"limit": 200}).text
        logs = httpx.post(f"{yard.prefect_url}/api/logs/filter", json={"limit": 200}).text
        answers += [prefect, logs]
        log = next(file for file in yard.home.rglob("*.txt") if run_id in file.name).read_text()
        assert "got *** and ***" in log, "the command had its secrets, and its log hides them"

    leaks = {number: places for number, text in enumerate(answers) if (places := secret.found_in(text.encode()))}
    assert leaks == {}
    assert files_with(yard.home, secret) == {}
    with sqlite3.connect(yard.home / "catalog.db") as catalog:
        assert secret.found_in("\n".join(catalog.iterdump()).encode()) == []
    supervisor = json.loads((yard.home / "run" / "yard.json").read_text())["supervisor"]["pid"]
    for process in psutil.Process(supervisor).children(recursive=True):
        assert secret.found_in(" ".join(process.cmdline()).encode()) == []

"""What tests share: waiting with a deadline, the command line, a yard to talk to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from prefect_trainyard.deployments.home import free_port

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
TRAINYARD = Path(sys.executable).with_name("trainyard")

#: What opens the S3 server of the tests.
S3_ACCESS_KEY, S3_SECRET_KEY = "trainyard", "trainyardsecret"


def poll(read: Callable[[], T | None], what: str, timeout_s: float = 60.0, every_s: float = 0.05) -> T:
    """Return the first true answer of `read`; fail with `what` when the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := read():
            return answer
        time.sleep(every_s)
    pytest.fail(f"waited {timeout_s:.0f} s in vain for {what}")


@contextmanager
def served(command: Sequence[str], url: str, folder: Path | None = None) -> Iterator[None]:
    """Run a server, from when it answers at `url`, whatever it says there."""
    process = subprocess.Popen(list(command), cwd=folder, stdout=subprocess.DEVNULL)

    def answers() -> bool:
        assert process.poll() is None, f"{command[0]} ended"
        try:
            httpx.get(url, timeout=5)
        except httpx.HTTPError:
            return False
        return True

    try:
        poll(answers, f"an answer of {url}", 90)
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def mlflow_served(folder: Path) -> Iterator[str]:
    """Run the MLflow server of a yard, with its database and its `files` in `folder`, and give its address."""
    port = free_port()
    command = [sys.executable, "-m", "prefect_trainyard.deployments.mlflow_server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    url = f"http://127.0.0.1:{port}"
    with served([*command, "--artifacts-destination", str(folder / "files")], f"{url}/health", folder):
        yield url


def files_with(text: str, folder: Path) -> list[str]:
    """Return the files below a folder that hold `text`.

    Another process looks: where this one serves the facade, to close a file of SQLite here would drop the locks that
    the facade has on it (POSIX), and the next writer from elsewhere would damage the catalog.
    """
    found = subprocess.run(
        ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--text", "--", text, str(folder)],
        capture_output=True,
        text=True,
    )
    assert found.returncode in (0, 1), found.stderr
    return found.stdout.splitlines()


def trainyard(*arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TRAINYARD_", "PREFECT_", "MLFLOW_"))}
    return subprocess.run(
        [str(TRAINYARD), *arguments],
        check=check,
        capture_output=True,
        text=True,
        env={**inherited, **environment},
        timeout=120,
    )


@dataclass(frozen=True)
class Yard:
    """A yard that is up, with a key of the org `acme`."""

    home: Path
    api_url: str
    prefect_url: str
    mlflow_url: str
    key: str

    def client(self, key: str | None = None, org: str = "acme") -> httpx.Client:
        """Return a logged-in client whose paths are relative to `/api/v1/orgs/{org}/`."""
        login = httpx.post(f"{self.api_url}/api/v1/login", json={"ngc_api_key": key or self.key}, timeout=30)
        assert login.status_code == 201, login.text
        return httpx.Client(
            base_url=f"{self.api_url}/api/v1/orgs/{org}/",
            headers={"Authorization": f"Bearer {login.json()['token']}"},
            timeout=120,
        )

    def make_key(self, org: str, user: str, release: str = "5.3") -> str:
        made = trainyard("keys", "create", "--home", str(self.home), "--org", org, "--user", user, "--release", release)
        return made.stdout.strip()


def wait_for_job(client: httpx.Client, path: str, timeout_s: float = 180.0) -> dict[str, Any]:
    """Return the job when it has ended."""

    def read() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(path).json()
        return job if job.get("status") in ("Done", "Error", "Canceled") else None

    return poll(read, f"the end of {path}", timeout_s, every_s=0.2)


#: Two epochs of a small network: enough to see everything that a job leaves behind.
QUICK_TRAIN: dict[str, Any] = {
    "model": {"backbone": {"type": "resnet10t"}, "input_width": 32, "input_height": 32},
    "dataset": {"batch_size": 64, "workers": 0, "augmentation": {"horizontal_flip": 0.0}},
    "train": {"train_config": {"runner": {"max_epochs": 2}}},
}


@dataclass(frozen=True)
class Chain:
    """An experiment with a train job and an export job that are Done."""

    client: httpx.Client
    train_set: str
    eval_set: str
    experiment: str
    train: str
    export: str

    def job(self, job_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.client.get(f"experiments/{self.experiment}/jobs/{job_id}").json()
        return shown


def upload_dataset(
    client: httpx.Client, archive: Path, format: str = "classification_pyt", type: str = "image_classification"
) -> str:
    made = client.post("datasets", json={"type": type, "format": format, "name": archive.name})
    assert made.status_code == 201, made.text
    dataset_id: str = made.json()["id"]
    with archive.open("rb") as stream:
        sent = client.post(f"datasets/{dataset_id}:upload", files={"file": (archive.name, stream)})
    assert sent.status_code == 201 or sent.status_code == 200, sent.text
    return dataset_id

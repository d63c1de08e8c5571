"""A facade and its Prefect server as tests see them; no worker: tests move flow runs themselves."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import socket
import tarfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image
from prefect_trainyard.api.app import create_app
from prefect_trainyard.api.server import server_config
from prefect_trainyard.api.services.accounts.keys import create_key
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.blocks import ArtifactStorage, layout
from prefect_trainyard.schemas.actions import Action
from prefect_trainyard.schemas.progress import PROGRESS_EVENT
from prefect_trainyard.schemas.results import Artifact, ArtifactKind, EpochMetrics, JobResult
from support import poll

UPLOAD_MAX_BYTES = 2_000_000
BODY_MAX_BYTES = 100_000
DEPLOY = "import asyncio; from prefect_trainyard.deployments.registration import deploy_all; asyncio.run(deploy_all())"


@dataclass(frozen=True)
class Prefect:
    """The Prefect server as a worker or a person at its UI sees it."""

    client: httpx.Client
    environment: dict[str, str] = field(repr=False)

    @property
    def api_url(self) -> str:
        return self.environment["PREFECT_API_URL"]

    def run(self, run_id: str) -> dict[str, Any]:
        answer = self.client.get(f"flow_runs/{run_id}")
        answer.raise_for_status()
        return dict(answer.json())

    def exists(self, run_id: str) -> bool:
        return self.client.get(f"flow_runs/{run_id}").status_code == 200

    def move(self, run_id: str, state_type: str, name: str | None = None, message: str = "") -> None:
        state = {"type": state_type, "message": message, **({"name": name} if name else {})}
        answer = self.client.post(f"flow_runs/{run_id}/set_state", json={"state": state, "force": True})
        answer.raise_for_status()

    def start_by_hand(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a deployment as the UI does: no tags, no name, only what the form asks for."""
        found = self.client.get(f"deployments/name/{deployment}").json()
        made = self.client.post(f"deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
        made.raise_for_status()
        return str(made.json()["id"])

    def tell(self, job_id: str, **fields: Any) -> None:
        """Report progress as a running job does."""
        payload = {"job_id": job_id, "at": datetime.now(UTC).isoformat(), "fraction": 0.5, "message": "", **fields}
        event = {
            "event": PROGRESS_EVENT,
            "resource": {"prefect.resource.id": f"trainyard.job.{job_id}"},
            "payload": payload,
            "id": str(uuid.uuid4()),
            "occurred": payload["at"],
        }
        self.client.post("events", json=[event]).raise_for_status()

    def count_runs(self) -> int:
        return int(self.client.post("flow_runs/count", json={}).json())


@dataclass(frozen=True)
class Facade:
    """A facade that serves on a port of its own."""

    url: str
    app: FastAPI
    settings: ApiSettings
    prefect: Prefect

    @property
    def storage(self) -> ArtifactStorage:
        return ArtifactStorage(url=self.settings.storage_url)

    def key(self, org: str, user: str, release: str = "5.3") -> str:
        return create_key(self.settings.database_url, org, user, release)

    def login(self, key: str) -> dict[str, str]:
        answer = httpx.post(f"{self.url}/api/v1/login", content=json.dumps({"ngc_api_key": key}))
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def member(self, org: str | None = None, user: str = "ann", release: str = "5.3", root: str = "users") -> Member:
        """Return a logged-in user of an org that nobody else uses, unless it is named."""
        org = org or f"org{uuid.uuid4().hex[:12]}"
        granted = self.login(self.key(org, user, release))
        base = f"users/{granted['user_id']}" if root == "users" else f"orgs/{org}"
        client = httpx.Client(
            base_url=f"{self.url}/api/v1/{base}/",
            headers={"Authorization": f"Bearer {granted['token']}"},
            timeout=60,
        )
        return Member(self, org, granted["user_id"], granted["token"], client)

    def files_of(self, org: str) -> list[str]:
        return [file.path for file in self.storage.list_files(org)]


@dataclass(frozen=True)
class Member:
    """A user with a client whose paths are relative to the user's root."""

    facade: Facade
    org: str
    user_id: str
    token: str
    client: httpx.Client

    def dataset(self, format: str = "classification_pyt", **fields: Any) -> str:
        body = {"type": "image_classification", "format": format, **fields}
        answer = self.client.post("datasets", content=json.dumps(body))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def upload(self, dataset_id: str, archive: bytes, name: str = "set.tar.gz") -> httpx.Response:
        return self.client.post(f"datasets/{dataset_id}:upload", files={"file": (name, archive)})

    def filled(self, format: str = "classification_pyt", classes: Sequence[str] = ("cat", "dog")) -> str:
        dataset_id = self.dataset(format)
        sent = self.upload(dataset_id, image_tar(classes if format != "raw" else ["flat"]))
        assert sent.status_code == 201, sent.text
        return dataset_id

    def experiment(self, **fields: Any) -> str:
        body = {"network_arch": "classification_pyt", "encryption_key": "nvidia_tlt", **fields}
        answer = self.client.post("experiments", content=json.dumps(body))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def ready(self) -> str:
        """Return an experiment with a training and an evaluation set."""
        dataset_id = self.filled()
        return self.experiment(train_datasets=[dataset_id], eval_dataset=dataset_id)

    def post_job(self, owner: str, action: str, **fields: Any) -> httpx.Response:
        return self.client.post(f"{owner}/jobs", content=json.dumps({"action": action, **fields}))

    def start(self, owner: str, action: str, **fields: Any) -> str:
        answer = self.post_job(owner, action, **fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json())

    def job(self, owner: str, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"{owner}/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, owner: str, job_id: str, status: str, timeout_s: float = 20) -> dict[str, Any]:
        def read() -> dict[str, Any] | None:
            job = self.job(owner, job_id)
            return job if job["status"] == status else None

        return poll(read, f"{job_id} to be {status}", timeout_s)

    def finish(
        self,
        job_id: str,
        action: Action = Action.TRAIN,
        network: str | None = "classification_pyt",
        mlflow_run_id: str | None = None,
    ) -> None:
        """End a job as its flow does: files, tar, result, then Completed."""
        storage, folder = self.facade.storage, layout.job(self.org, job_id)
        storage.write_bytes(f"{folder}/train/model_epoch_002.safetensors", b"weights of epoch 2")
        storage.write_bytes(f"{folder}/train/model_epoch_003.safetensors", b"weights of epoch 3")
        result = JobResult(
            action=action,
            network=network,
            uri=storage.address(folder),
            job_id=job_id,
            artifacts=[
                Artifact(path="train/model_epoch_002.safetensors", kind=ArtifactKind.WEIGHTS, epoch=2),
                Artifact(path="train/model_epoch_003.safetensors", kind=ArtifactKind.WEIGHTS, epoch=3),
            ],
            kpi={"accuracy_top-1": 0.5, "loss": 0.25},
            categorical={"precision": {"cat": 0.75, "dog": 0.5}},
            key_metric="accuracy_top-1",
            parameter_count=123,
            best_epoch=2,
            latest_epoch=3,
            message="Trained.",
            mlflow_run_id=mlflow_run_id,
            history=[EpochMetrics(epoch=n, max_epoch=3, metrics={"loss": 1 / n}, seconds=2.0) for n in (1, 2, 3)],
        )
        tar = os.urandom(300_000)
        storage.write_bytes(layout.download(self.org, job_id), tar)
        stats = {"file_size": len(tar), "sha256_digest": hashlib.sha256(tar).hexdigest()}
        storage.write_json(layout.download(self.org, job_id) + ".stats.json", stats)
        storage.write_json(f"{folder}/result.json", result.model_dump(mode="json"))
        self.facade.prefect.move(job_id, "RUNNING")
        self.facade.prefect.move(job_id, "COMPLETED")


def image_png(shade: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (shade % 256, 0, 0)).save(content, "PNG")
    return content.getvalue()


def make_tar(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue()


def image_tar(classes: Sequence[str], each: int = 2, mode: str = "w:gz") -> bytes:
    return make_tar(
        {f"images/{name}/{i}.png": image_png(16 * n + i) for n, name in enumerate(classes) for i in range(each)}, mode
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(settings: ApiSettings, prefect: Prefect) -> Iterator[Facade]:
    """Serve a facade from a thread until the generator is closed."""
    app = create_app(settings)
    server = uvicorn.Server(server_config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        poll(lambda: server.started or not thread.is_alive(), "the facade", 30)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Facade(f"http://127.0.0.1:{port}", app, settings, prefect)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

"""The unmodified client nvidia-tao-client 4.0.1 as a person runs it, and what its notebooks do beside it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx


@dataclass
class TaoClient:
    """The client as a person runs it: configured by the environment, printing what it got."""

    command: Path
    base_url: str
    group: str = "classification"
    """Of the commands of `network`."""
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> str:
        words = [str(self.command), *arguments]
        environment = {"PATH": os.environ["PATH"], "BASE_URL": self.base_url, **self.environment}
        run = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
        assert run.returncode == 0, f"{' '.join(words)}\n{run.stdout}\n{run.stderr}"
        return run.stdout.strip()

    def network(self, command: str, *arguments: str) -> str:
        return self(self.group, command, *arguments)

    def login(self, key: str) -> httpx.Client:
        """Log in as the notebooks do, and return what they use beside the client."""
        granted = json.loads(self("login", "--ngc-api-key", key))
        self.environment = {"USER": granted["user_id"], "TOKEN": granted["token"]}
        return httpx.Client(
            base_url=f"{self.base_url}/user/{granted['user_id']}/",
            headers={"Authorization": f"Bearer {granted['token']}"},
            timeout=120,
        )


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def upload(tao: TaoClient, rest: httpx.Client, type: str, format: str, archive: Path) -> str:
    """Create a data set of an archive as the notebooks do; return its id."""
    created = tao.network("dataset-create", "--dataset_type", type, "--dataset_format", format)
    ok(rest.patch(f"dataset/{created}", content=json.dumps({"name": archive.name, "description": "digits"})))
    with archive.open("rb") as stream:
        sent = ok(rest.post(f"dataset/{created}/upload", files={"file": stream}), 201)
    assert sent["message"] == "Data successfully uploaded"
    assert ok(rest.get(f"dataset/{created}"))["name"] == archive.name
    return created

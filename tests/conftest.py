"""Real servers for tests: everything on 127.0.0.1, on free ports, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.parse
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.deployments.home import free_port
from prefect_trainyard.tasks.forks import tolerate_forks
from pydantic import SecretStr
from support import ROOT, S3_ACCESS_KEY, S3_SECRET_KEY, Yard, served, trainyard

# Two cores: threads of torch and of ONNX Runtime in every process at once only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# Some tests run flows in this process; tests of DataLoader workers come after them.
tolerate_forks()


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory, s3_url: str) -> Iterator[Yard]:
    """One yard for the whole session: it takes seconds to start and serves any number of orgs.

    Its operator lets data come from the S3 server of the tests.
    """
    hosts = json.dumps([urllib.parse.urlsplit(s3_url).netloc])
    home = tmp_path_factory.mktemp("yard") / "home"
    try:
        trainyard("up", "--home", str(home), "--port", "0", "--detach", TRAINYARD_API_PRIVATE_HOSTS=hosts)
        status = json.loads(trainyard("status", "--home", str(home), "--json").stdout)
        key = trainyard("keys", "create", "--home", str(home), "--org", "acme", "--user", "ann").stdout.strip()
        yield Yard(home, status["api_url"], status["prefect_url"], status["mlflow_url"], key)
    finally:
        trainyard("down", "--home", str(home), check=False)
        for log in sorted((home / "logs" / "parts").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handwritten digits of scikit-learn as folders and archives."""
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, str(ROOT / "examples" / "digits.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server: rclone, which comes as a wheel and starts in 0.3 s."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--log-level", "EMERGENCY"]
    command += ["--auth-key", f"{S3_ACCESS_KEY},{S3_SECRET_KEY}", "--addr", f"127.0.0.1:{port}"]
    command += ["--vfs-cache-mode", "off", "--config", "/dev/null", str(tmp_path_factory.mktemp("s3"))]
    with served(command, f"http://127.0.0.1:{port}/"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def s3_storage(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> ArtifactStorage:
    """A storage in a new bucket of the S3 server; environment variables hold what it needs."""
    # rclone answers a ranged GET with the checksum of the whole object.
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", S3_ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", S3_SECRET_KEY)
    bucket = f"b{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(endpoint_url=s3_url, key=S3_ACCESS_KEY, secret=S3_SECRET_KEY).mkdir(bucket)
    return ArtifactStorage(
        url=f"s3://{bucket}/yard", endpoint_url=s3_url, access_key=S3_ACCESS_KEY, secret_key=SecretStr(S3_SECRET_KEY)
    )

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.deployments.home import free_port
from pydantic import SecretStr
from support import poll

ACCESS_KEY, SECRET_KEY = "trainyard", "trainyardsecret"


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server: rclone, which comes as a wheel and starts in 0.3 s."""
    port = free_port()
    rclone = Path(sys.executable).with_name("rclone")
    process = subprocess.Popen(
        [
            *(str(rclone), "serve", "s3", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", f"127.0.0.1:{port}"),
            *("--vfs-cache-mode", "off", "--config", "/dev/null", str(tmp_path_factory.mktemp("s3"))),
        ],
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    try:
        poll(answers, "the S3 server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStorage:
    """A storage of each kind, empty."""
    if request.param == "local":
        return ArtifactStorage(url=str(tmp_path / "storage"))
    # rclone answers a ranged GET with the checksum of the whole object.
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
    url = request.getfixturevalue("s3_url")
    bucket = f"b{abs(hash(tmp_path)) % 10**9}"
    s3fs.S3FileSystem(endpoint_url=url, key=ACCESS_KEY, secret=SECRET_KEY).mkdir(bucket)
    return ArtifactStorage(
        url=f"s3://{bucket}/yard", endpoint_url=url, access_key=ACCESS_KEY, secret_key=SecretStr(SECRET_KEY)
    )

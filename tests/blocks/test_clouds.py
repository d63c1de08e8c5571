"""Places in clouds: the same rules with each driver, against a real server of each kind that can run here."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hub import REPOSITORY, TOKEN, hub
from huggingface_hub import constants
from prefect_trainyard.blocks.clouds import (
    Access,
    AzureAccess,
    GoogleAccess,
    HuggingFaceAccess,
    Place,
    RemoteFile,
    SelfHostedAccess,
    _is_refusal,
)
from prefect_trainyard.blocks.reach import Outbound
from prefect_trainyard.deployments.home import free_port
from prefect_trainyard.schemas.errors import DatasetError, InvalidInput, NotFound, TooLarge
from support import ROOT, S3_ACCESS_KEY, S3_SECRET_KEY, served

#: Public: every Azurite has them.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

LARGE = 6 * 2**20
CONTENT = {"set/a.bin": b"a" * LARGE, "set/deeper/b.bin": b"b" * 10, "settle/c.bin": b"c", "one.tar": b"d" * 100}


@dataclass(frozen=True)
class Cloud:
    """A bucket with something in it, and ways to open it."""

    bucket: str
    """What no error may hold."""
    access: Access
    elsewhere: Access
    """To a bucket that is not there."""
    refused: Access | None
    """With a wrong key; None where the server takes any."""
    outbound: Outbound
    folder: str = ""
    """Where the things lie, with a slash."""


@pytest.fixture(
    scope="module",
    params=[
        "s3",
        "huggingface",
        pytest.param("azure", marks=pytest.mark.long),
        pytest.param("gcp", marks=pytest.mark.long),
    ],
)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    return request.getfixturevalue(f"{request.param}_cloud")


def fill(fs: fsspec.AbstractFileSystem, bucket: str) -> None:
    fs.mkdir(bucket)
    for name, content in CONTENT.items():
        fs.pipe_file(f"{bucket}/{name}", content)


@pytest.fixture(scope="module")
def s3_cloud(s3_url: str) -> Cloud:
    bucket = f"b{uuid.uuid4().hex[:12]}"
    opened = {"endpoint_url": s3_url, "access_key": S3_ACCESS_KEY, "secret_key": S3_SECRET_KEY}
    fill(fsspec.filesystem("s3", endpoint_url=s3_url, key=S3_ACCESS_KEY, secret=S3_SECRET_KEY), bucket)
    return Cloud(
        bucket,
        SelfHostedAccess(cloud_bucket_name=bucket, **opened),
        SelfHostedAccess(cloud_bucket_name="nosuchbucket", **opened),
        SelfHostedAccess(cloud_bucket_name=bucket, **{**opened, "secret_key": "wrong"}),
        Outbound([s3_url.removeprefix("http://")]),
    )


@pytest.fixture(scope="module")
def huggingface_cloud() -> Iterator[Cloud]:
    with hub(CONTENT) as address, pytest.MonkeyPatch.context() as patch:
        # why: tests forbid the library to ask the real one.
        patch.setattr(constants, "HF_HUB_OFFLINE", False)

        class Standing(HuggingFaceAccess):
            missing: bool = False

            def options(self, outbound: Outbound) -> dict[str, Any]:
                return {**super().options(outbound), "endpoint": address}

            def root(self, path: str) -> str:
                return super().root(path.replace(REPOSITORY, "lab/nothing") if self.missing else path)

        yield Cloud(
            REPOSITORY,
            Standing(token=TOKEN),
            Standing(token=TOKEN, missing=True),
            Standing(token="hf_wrong"),
            Outbound(),
            folder=f"datasets/{REPOSITORY}/",
        )


@pytest.fixture(scope="module")
def azure_cloud(tmp_path_factory: pytest.TempPathFactory, drivers: None) -> Iterator[Cloud]:
    """Azurite, the emulator of Microsoft's own, from npm."""
    folder, port = tmp_path_factory.mktemp("azurite"), free_port()
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), "azurite@3"]
    try:
        subprocess.run(install, check=True, timeout=250, cwd=folder)
    except FileNotFoundError:
        pytest.skip("needs npm, to install Azurite")
    address = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"

    class Emulated(AzureAccess):
        """Azurite has the account in the path of its address instead of in its host."""

        def options(self, outbound: Outbound) -> dict[str, Any]:
            found = super().options(outbound)
            key = found.pop("account_key")
            words = f"DefaultEndpointsProtocol=http;AccountName={self.account_name};AccountKey={key};"
            return {**found, "connection_string": f"{words}BlobEndpoint={address};"}

    def opened(bucket: str, key: str = AZURITE_KEY) -> AzureAccess:
        return Emulated(cloud_bucket_name=bucket, account_name=AZURITE_ACCOUNT, access_key=key)

    command = [str(folder / "node_modules/.bin/azurite-blob"), "--blobPort", str(port), "--location", str(folder)]
    with served([*command, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], f"http://127.0.0.1:{port}"):
        outbound = Outbound()
        fill(opened("lab").open(outbound), "lab")
        yield Cloud("lab", opened("lab"), opened("nosuchbucket"), opened("lab", "d3Jvbmc="), outbound)


@pytest.fixture(scope="module")
def gcp_cloud(tmp_path_factory: pytest.TempPathFactory, drivers: None) -> Iterator[Cloud]:
    """An emulator of Google's JSON API, which takes everybody."""
    folder, port = tmp_path_factory.mktemp("gcs"), free_port()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/pip"), "install", "--quiet", "gcp-storage-emulator"], check=True, timeout=250)
    address = f"http://127.0.0.1:{port}"

    class Emulated(GoogleAccess):
        def options(self, outbound: Outbound) -> dict[str, Any]:
            return {**super().options(outbound), "endpoint_url": address, "project": "lab"}

    command = [str(folder / "bin/gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--port", str(port)]
    with served([*command, "--in-memory"], address):
        access, outbound = Emulated(cloud_bucket_name="lab"), Outbound()
        fill(access.open(outbound), "lab")
        yield Cloud("lab", access, Emulated(cloud_bucket_name="nosuchbucket"), None, outbound)


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The drivers of the extras; what this environment has already stays as it is."""
    folder = str(tmp_path_factory.mktemp("drivers"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder]
    subprocess.run(
        [*pip, "--constraint", str(ROOT / "constraints.txt"), "adlfs>=2026.4", "gcsfs>=2026.4"], check=True, timeout=280
    )
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


def fetched(place: Place, files: list[RemoteFile], folder: Path, arrived: Callable[[int], None]) -> dict[str, bytes]:
    targets = [(file, folder / file.name) for file in files]
    place.fetch(targets, arrived)
    return {file.name: target.read_bytes() for file, target in targets}


def test_a_folder_brings_everything_in_it_and_nothing_beside_it(cloud: Cloud, tmp_path: Path) -> None:
    place = Place(cloud.access, f"{cloud.folder}set", cloud.outbound)
    files, is_folder = place.files(max_files=10)
    assert is_folder and {file.name: file.size_bytes for file in files} == {"a.bin": LARGE, "deeper/b.bin": 10}
    came: list[int] = []
    assert fetched(place, files, tmp_path, came.append) == {"a.bin": b"a" * LARGE, "deeper/b.bin": b"b" * 10}
    assert sum(came) == LARGE + 10, "whoever counts what arrives hears of everything"


def test_a_file_is_one(cloud: Cloud, tmp_path: Path) -> None:
    place = Place(cloud.access, f"{cloud.folder}one.tar", cloud.outbound)
    files, is_folder = place.files(max_files=1)
    assert not is_folder and fetched(place, files, tmp_path, lambda _: None) == {"one.tar": b"d" * 100}


def test_a_file_with_more_in_it_than_was_told_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    place = Place(cloud.access, f"{cloud.folder}set", cloud.outbound)
    (file, *_), _ = place.files(max_files=10)
    told = RemoteFile(name=file.name, address=file.address, size_bytes=LARGE - 1)
    with pytest.raises(TooLarge, match="more than its"):
        place.fetch([(told, tmp_path / "a")], lambda _: None)


def test_whoever_counts_can_end_it(cloud: Cloud, tmp_path: Path) -> None:
    place = Place(cloud.access, f"{cloud.folder}set", cloud.outbound)
    files, _ = place.files(max_files=10)

    def enough(_: int) -> None:
        raise DatasetError("enough")

    with pytest.raises(DatasetError, match="enough"):
        fetched(place, files, tmp_path, enough)


def test_too_many_files_are_not_even_begun(cloud: Cloud) -> None:
    with pytest.raises(TooLarge, match="more than 1 files"):
        Place(cloud.access, f"{cloud.folder}set", cloud.outbound).files(max_files=1)


def test_what_is_not_there_is_said_so(cloud: Cloud) -> None:
    for access, path in ((cloud.access, "nothing/here"), (cloud.elsewhere, "set")):
        with pytest.raises(NotFound, match="nothing at"):
            Place(access, cloud.folder + path, cloud.outbound).files(max_files=10)


def test_wrong_keys_are_the_users_to_mend(cloud: Cloud) -> None:
    if cloud.refused is None:
        pytest.skip("this server takes everybody")
    for path in ("set", "one.tar"):
        with pytest.raises(InvalidInput, match="keys do not open") as refused:
            Place(cloud.refused, cloud.folder + path, cloud.outbound).files(max_files=10)
        assert cloud.bucket not in str(refused.value), "texts of drivers may hold anything"


def test_refusals_of_servers_that_are_not_here_are_known_by_what_their_drivers_raise() -> None:
    class RefreshError(Exception):
        """As google-auth has it."""

    class HfHubHTTPError(OSError):
        """As huggingface_hub has it: with the answer."""

        response = type("Response", (), {"status_code": 401})()

    for error in (RefreshError("invalid_grant"), HfHubHTTPError(), OSError("Forbidden: b/lab/o\nno access")):
        assert _is_refusal(error)
    for error in (OSError("the line is dead"), TimeoutError(), ValueError("403")):
        assert not _is_refusal(error)


@pytest.mark.parametrize("path", ["", "digits", "datasets", "datasets/digits", "buckets/lab", "models/digits"])
def test_hub_has_repositories_with_an_owner_only(path: str) -> None:
    with pytest.raises(InvalidInput, match="names no repository"):
        Place(HuggingFaceAccess(), path, Outbound())


def test_a_service_account_opens_google_only(tmp_path: Path) -> None:
    account = {"type": "service_account", "client_email": "a@b", "private_key": "k", "private_key_id": "1"}
    token = json.dumps({**account, "token_uri": "http://169.254.169.254/", "universe_domain": "evil.example"})
    options = GoogleAccess(cloud_bucket_name="lab", token=token).options(Outbound())
    assert options["token"] == {**account, "token_uri": "https://oauth2.googleapis.com/token"}

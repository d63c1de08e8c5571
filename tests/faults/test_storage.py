"""A yard on S3 that answers 500, 503 and cut bodies, or nothing at all, while a job trains."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import s3fs
from faults.checks import sha256
from faults.traffic import train_spec
from faults.yard import FaultyYard, faulty_yard
from faulty_proxy import Fault, FaultyProxy, faulty_proxy
from prefect_trainyard.blocks import ArtifactStorage, layout
from support import poll

ORG = "acme"
EPOCHS = 40
#: Seconds of good and of bad weather, and the share of requests that fail in bad weather.
FAIR_S, FOUL_S, SHARE = 1.5, 3.0, 0.5
FAULTS: tuple[Fault, ...] = ("500", "503", "cut", "away")


@pytest.fixture(scope="module")
def proxy(s3_url: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def yard(proxy: FaultyProxy, s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyYard]:
    access, secret = "trainyard", "trainyardsecret"
    s3fs.S3FileSystem(endpoint_url=s3_url, key=access, secret=secret).mkdir("yard")
    environment = {
        # rclone answers a ranged GET with the checksum of the whole object.
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        folder = tmp_path_factory.mktemp("s3yard")
        with faulty_yard(folder, cpus="2", storage_url="s3://yard/home", storage_endpoint_url=proxy.url) as yard:
            yield yard


@pytest.fixture
def storage(s3_url: str, yard: FaultyYard) -> ArtifactStorage:
    """The storage itself, without the proxy before it."""
    return ArtifactStorage(url="s3://yard/home", endpoint_url=s3_url)


class Weather:
    """Turns the faults of a proxy on and off until it is left."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self._proxy, self._random = proxy, Random(1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._change, daemon=True)

    def __enter__(self) -> Weather:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._proxy.choose, self._proxy.away = (lambda method, path: None), False

    def _change(self) -> None:
        while not self._over.wait(FAIR_S):
            kind = self._random.choice(FAULTS)
            self._proxy.away = kind == "away"
            self._proxy.choose = lambda method, path, kind=kind: kind if self._random.random() < SHARE else None
            self._over.wait(FOUL_S)
            self._proxy.choose, self._proxy.away = (lambda method, path: None), False


def start(yard: FaultyYard, experiment: str, epochs: int) -> str:
    answer = yard.rest.send("POST", f"{experiment}/jobs", {"action": "train", "specs": train_spec(epochs)})
    assert answer.status_code == 201, answer.text
    return str(answer.json())


def epoch(yard: FaultyYard, experiment: str, job_id: str) -> int:
    return int(yard.rest.get(f"{experiment}/jobs/{job_id}")["result"].get("epoch") or 0)


def is_over(yard: FaultyYard, experiment: str, job_id: str) -> bool:
    return str(yard.rest.get(f"{experiment}/jobs/{job_id}")["status"]) in ("Done", "Error", "Canceled")


def check_whole(storage: ArtifactStorage, yard: FaultyYard, experiment: str, job_id: str, tmp_path: Path) -> None:
    """See that the job is done and that all it should have left is there, read past the proxy."""

    def done() -> bool:
        shown = yard.rest.get(f"{experiment}/jobs/{job_id}")
        assert shown["status"] not in ("Error", "Canceled"), shown["result"]
        return bool(shown["status"] == "Done")

    poll(done, "the job to be Done", 240, every_s=0.3)
    folder = layout.job(ORG, job_id)
    result = storage.read_json(f"{folder}/result.json")
    assert [entry["epoch"] for entry in result["history"]] == list(range(1, EPOCHS + 1))
    for artifact in result["artifacts"]:
        file = storage.local_copy(f"{folder}/{artifact['path']}", tmp_path / "artifacts")
        assert sha256(file) == artifact["sha256"], artifact["path"]
    stats = storage.read_json(layout.download_stats(ORG, job_id))
    tar = storage.local_copy(layout.download(ORG, job_id), tmp_path)
    assert (sha256(tar), tar.stat().st_size) == (stats["sha256_digest"], stats["file_size"])

    def whole_log() -> str | None:
        text = storage.read_bytes(layout.log(ORG, job_id)).decode()
        return text if text.endswith("\nDone EOF\n") else None

    log = poll(whole_log, "the last line of the log", 60)
    told = [int(number) for number in re.findall(r" epoch (\d+)/", log)]
    assert told == list(range(1, EPOCHS + 1))
    assert log.count(" EOF\n") == 1


@pytest.mark.long
@pytest.mark.timeout(420)
def test_a_training_outlives_bad_weather_of_its_storage(
    yard: FaultyYard, proxy: FaultyProxy, storage: ArtifactStorage, tmp_path: Path
) -> None:
    experiment = yard.experiment()
    job_id = start(yard, experiment, EPOCHS)
    poll(lambda: yard.rest.get(f"{experiment}/jobs/{job_id}")["status"] == "Running", "the start", 60)
    with Weather(proxy):
        poll(lambda: epoch(yard, experiment, job_id) >= EPOCHS - 1, "the last epochs", 200)
        # It publishes its files in bad weather, too.
        faults = proxy.made.total()
        poll(lambda: proxy.made.total() > faults + 5 or is_over(yard, experiment, job_id), "some more faults", 60)
    assert {"500", "503"} & set(proxy.made), proxy.made
    check_whole(storage, yard, experiment, job_id, tmp_path)

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.flows.joblog import finish_spool, job_log
from prefect_trainyard.flows.logspool import merged
from prefect_trainyard.schemas.errors import Unavailable
from support import poll

LOG, EARLIER = "acme/logs/1.txt", "acme/logs/1.1.txt"

logger = logging.getLogger("prefect.trainyard")


@pytest.fixture(autouse=True)
def _informative() -> None:
    logger.setLevel(logging.INFO)


def lines(storage: ArtifactStorage, path: str = LOG) -> list[str]:
    return storage.read_bytes(path).decode().splitlines()


def test_every_line_is_on_disk_at_once_and_the_error_is_the_last(tmp_path: Path) -> None:
    storage = ArtifactStorage(url=str(tmp_path))

    def run() -> None:
        with job_log(storage, "acme", "1"):
            for number in range(100):
                logger.info("line %d", number)
                assert lines(storage)[-1].endswith(f"INFO line {number}")
            raise RuntimeError("no more digits")

    with pytest.raises(RuntimeError):
        run()
    assert len(lines(storage)) == 101
    assert lines(storage)[-1].endswith("ERROR RuntimeError: no more digits")
    logger.info("after the end")
    assert len(lines(storage)) == 101


def test_a_later_attempt_says_which_it_is_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ArtifactStorage(url=str(tmp_path))
    for attempt in ("1", "2"):
        monkeypatch.setenv("TRAINYARD_ATTEMPT", attempt)
        with job_log(storage, "acme", "1"):
            logger.info("training")
    assert [line.split(" INFO ")[1] for line in lines(storage)] == [
        "training",
        f"Attempt 2 on {os.uname().nodename}.",
        "training",
    ]


def test_a_log_that_grows_too_long_moves_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_LOG_MAX_BYTES", "1000")
    storage = ArtifactStorage(url=str(tmp_path))
    with job_log(storage, "acme", "1"):
        for number in range(100):
            logger.info("line %d", number)
    assert storage.size(EARLIER) < 1100
    assert storage.size(LOG) <= 1000
    kept = [int(line.split()[-1]) for line in lines(storage, EARLIER) + lines(storage)]
    assert kept == list(range(kept[0], 100))
    assert [file.path for file in storage.list_files("acme/logs")] == ["1.1.txt", "1.txt"]


def test_a_full_disk_loses_no_line_and_does_not_stop_the_job(tmp_path: Path) -> None:
    storage = ArtifactStorage(url=str(tmp_path))
    folder = tmp_path / "acme" / "logs"
    with job_log(storage, "acme", "1"):
        logger.info("before")
        # why: a file where the folder should be refuses every write, also to root.
        folder.rename(tmp_path / "away")
        folder.write_text("")
        logger.info("during")
        folder.unlink()
        (tmp_path / "away").rename(folder)
        logger.info("after")
    assert [line.split()[-1] for line in lines(storage)] == ["before", "during", "after"]


def test_on_s3_all_lines_are_there_at_the_end(s3_storage: ArtifactStorage) -> None:
    s3_storage.write_bytes(LOG, b"Waiting for a worker.\n")
    with job_log(s3_storage, "acme", "1"):
        for number in range(1000):
            logger.info("line %d", number)
    found = lines(s3_storage)
    assert found[0] == "Waiting for a worker."
    assert [line.split()[-1] for line in found[1:]] == [str(n) for n in range(1000)]


def test_on_s3_lines_arrive_while_the_job_runs_and_those_of_others_stay(
    s3_storage: ArtifactStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_trainyard.flows.joblog.PUSH_INTERVAL_S", 0.05)
    s3_storage.write_bytes(LOG, b"first\n")
    with job_log(s3_storage, "acme", "1"):
        logger.info("second")
        poll(lambda: len(lines(s3_storage)) == 2, "the second line in the storage")
        s3_storage.append_text(LOG, "third\n")
        logger.info("fourth")
        poll(lambda: len(lines(s3_storage)) == 4, "the fourth line in the storage")
    assert [line.split()[-1] for line in lines(s3_storage)] == ["first", "second", "third", "fourth"]


def test_on_s3_a_long_log_moves_to_a_second_object(
    s3_storage: ArtifactStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_trainyard.flows.joblog.PUSH_INTERVAL_S", 0.01)
    monkeypatch.setenv("TRAINYARD_LOG_MAX_BYTES", "500")

    def everything() -> str:
        return "".join(s3_storage.read_bytes(p).decode() for p in (EARLIER, LOG) if s3_storage.exists(p))

    with job_log(s3_storage, "acme", "1"):
        for number in range(60):
            logger.info("line %d", number)
            if number % 20 == 19:
                last = f"line {number}\n"
                poll(lambda last=last: last in everything(), f"{last} in the storage")
    kept = [int(line.split()[-1]) for line in everything().splitlines()]
    assert kept == list(range(kept[0], 60))
    assert kept[0] <= 40


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


KILLED = """
import logging, os, signal, sys
from prefect_trainyard.blocks import load_storage
from prefect_trainyard.flows import joblog

joblog.PUSH_INTERVAL_S = float(sys.argv[1])
logger = logging.getLogger("prefect.trainyard")
logger.setLevel(logging.INFO)
with joblog.job_log(load_storage(), "acme", "1"):
    for number in range(1000):
        logger.info("line %d", number)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("push_interval_s", [0.001, 3600])
def test_the_worker_brings_the_lines_of_a_killed_process_to_s3_once(
    s3_storage: ArtifactStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, push_interval_s: float
) -> None:
    spool = tmp_path / "spool"
    monkeypatch.setenv("TRAINYARD_STORAGE_URL", s3_storage.url)
    monkeypatch.setenv("TRAINYARD_STORAGE_ENDPOINT_URL", str(s3_storage.endpoint_url))
    monkeypatch.setenv("TRAINYARD_LOG_SPOOL", str(spool))
    s3_storage.write_bytes(LOG, b"Waiting for a worker.\n")
    subprocess.run([sys.executable, "-P", "-c", KILLED, str(push_interval_s)], check=False, cwd=tmp_path)
    # why: a worker that is killed in the middle of this does it again.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("prefect_trainyard.flows.logspool.shutil.rmtree", interrupt)
        finish_spool(spool)
    finish_spool(spool)
    assert not spool.exists()
    finish_spool(spool)
    found = lines(s3_storage)
    assert found[0] == "Waiting for a worker."
    assert [line.split()[-1] for line in found[1:]] == [str(n) for n in range(1000)]


def test_a_spool_stays_while_the_storage_is_away(
    tmp_path: Path, s3_storage: ArtifactStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINYARD_LOG_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setattr("prefect_trainyard.flows.joblog.LAST_PUSH_S", 0.0)
    nowhere = s3_storage.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    nowhere._fs = None
    with job_log(nowhere, "acme", "1"):
        logger.info("kept")
    (text,) = (tmp_path / "spool").rglob("lines.txt")
    assert text.read_text().endswith("INFO kept\n")
    with pytest.raises(Unavailable):
        finish_spool(tmp_path / "spool")
    assert text.exists()


def test_lines_of_two_writers_are_merged() -> None:
    assert merged(b"a\nb\n", b"a\nb\nc\n") == b"a\nb\nc\n"
    assert merged(b"a\nb\nfrom others\n", b"a\nb\nfrom us\n") == b"a\nb\nfrom others\nfrom us\n"
    assert merged(b"a\nb\n", b"a\n") == b"a\nb\n"
    assert merged(b"", b"a\n") == b"a\n"
    assert merged(b"a\n", b"") == b"a\n"

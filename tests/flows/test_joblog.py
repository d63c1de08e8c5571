from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.flows.joblog import job_log


def lines(storage: ArtifactStorage) -> list[str]:
    return storage.read_bytes("acme/logs/1.txt").decode().splitlines()


def test_every_line_is_on_disk_at_once_and_the_error_is_the_last(tmp_path: Path) -> None:
    storage = ArtifactStorage(url=str(tmp_path))
    logger = logging.getLogger("prefect.task_runs")
    logger.setLevel(logging.INFO)

    def run() -> None:
        with job_log(storage, "acme/logs/1.txt"):
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


def test_on_s3_all_lines_are_there_at_the_end(s3_storage: ArtifactStorage) -> None:
    s3_storage.write_bytes("acme/logs/1.txt", b"Waiting for a worker.\n")
    with job_log(s3_storage, "acme/logs/1.txt"):
        for number in range(1000):
            logging.getLogger("prefect.trainyard").info("line %d", number)
    found = lines(s3_storage)
    assert found[0] == "Waiting for a worker."
    assert [line.split()[-1] for line in found[1:]] == [str(n) for n in range(1000)]

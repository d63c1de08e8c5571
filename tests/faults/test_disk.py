"""A yard whose storage is a small file system of its own that fills up while a job trains."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from faults.checks import check_all
from faults.traffic import Traffic
from faults.watch import Watch
from faults.yard import FaultyYard, faulty_yard
from support import poll

SIZE = "256m"
EPOCHS = 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 MiB where the storage of the yard goes."""
    storage = tmp_path / "home" / "storage"
    storage.mkdir(parents=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "trainyard-test", str(storage)],
        capture_output=True,
        text=True,
    )
    if mount.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mount.stderr.strip()}")
    try:
        yield storage
    finally:
        subprocess.run(["umount", "--lazy", str(storage)], check=True)


@pytest.fixture
def yard(small_disk: Path, tmp_path: Path) -> Iterator[FaultyYard]:
    with faulty_yard(tmp_path, cpus="2") as yard:
        yield yard


def fill(file: Path) -> None:
    """Write until not one byte more fits."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while stream.write(b"\0" * size) == size:
                    continue
    left = os.statvfs(file)
    assert left.f_bavail == 0, f"{left.f_bavail} blocks are left"


@pytest.mark.long
def test_training_goes_on_while_the_disk_is_full_and_nothing_is_missing_afterwards(
    yard: FaultyYard, small_disk: Path
) -> None:
    with Watch(yard.home / "work") as watch:
        traffic = Traffic(yard, watch, Random(1), epochs=EPOCHS)
        job = traffic.submit("train", exact=True)

        def epoch() -> int:
            shown = yard.rest.get(traffic.path(job))
            assert shown["status"] not in ("Done", "Error"), shown["result"]
            return int(shown["result"].get("epoch") or 0)

        poll(lambda: epoch() >= 3, "the third epoch", 60)
        filler = small_disk / "filler"
        fill(filler)
        before = epoch()
        poll(lambda: epoch() >= before + 8, "eight epochs on a full disk", 60)
        refused = yard.rest._http.post(f"{traffic.experiment}/jobs", json={"action": "train"})
        listed = yard.rest.get(traffic.path(job))
        filler.unlink()
        assert listed["status"] == "Running"
        assert refused.status_code == 507, refused.text
        traffic.drain(120)
        assert check_all(yard, traffic) == []

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_trainyard.blocks import ArtifactStorage
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.tasks.joblock import job_lock
from support import poll

HOLDER = """
import sys, time
from pathlib import Path
from prefect_trainyard.tasks.joblock import job_lock

with job_lock(Path(sys.argv[1])):
    Path(sys.argv[1], "held").touch()
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-P", "-c", HOLDER, str(tmp_path)])
    poll((tmp_path / "held").exists, "the lock of the other process")
    return process


def test_two_processes_never_work_on_one_job(
    tmp_path: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_trainyard.tasks.joblock.WAIT_S", 0.0)
    try:
        with pytest.raises(JobFailed, match="Another process"), job_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    with job_lock(tmp_path):
        pass
    holder.wait()


KILLED_WRITER = """
import os, sys
from prefect_trainyard.blocks import ArtifactStorage

os.fsync = lambda file: os.kill(os.getpid(), 9)
ArtifactStorage(url=sys.argv[1]).write_bytes("acme/jobs/1/train/metrics", b"half")
"""


def test_what_a_killed_process_was_writing_is_gone_for_the_next_one(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-P", "-c", KILLED_WRITER, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    folder = tmp_path / "acme" / "jobs" / "1"
    (folder / "result.json").write_text("{}")
    assert [file.read_bytes() for file in folder.rglob(".incoming-*")] == [b"half"]
    with job_lock(folder):
        assert sorted(path.name for path in folder.rglob("*")) == [".lock", "result.json", "train"]


def test_the_lock_is_no_file_of_the_job(tmp_path: Path) -> None:
    folder = tmp_path / "acme" / "jobs" / "1"
    folder.mkdir(parents=True)
    with job_lock(folder):
        (folder / "weights").write_text("x")
    storage = ArtifactStorage(url=str(tmp_path))
    assert [file.path for file in storage.list_files("acme/jobs/1")] == ["weights"]

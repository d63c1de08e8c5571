"""Commands of users: what they see, what they may use, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.tasks.redaction import Redaction
from prefect_trainyard.tasks.sandbox import Sandbox, SandboxLimits, can_confine
from support import poll

MIB = 2**20

#: Leaves a process behind that is out of the group and the session of the command, and says which.
ESCAPE = """
import os, time
left, told = os.pipe()
child = os.fork()
if child == 0:
    os.setsid()
    os.write(told, b"x")
    time.sleep(600)
os.read(left, 1)
print(child, flush=True)
"""


class Box(Sandbox):
    """A sandbox that keeps its lines."""

    def __init__(self, folder: Path, limits: SandboxLimits | None = None, **environment: str) -> None:
        self.lines: list[str] = []
        super().__init__(folder, environment, limits or SandboxLimits(), self.lines.append)

    def sh(self, script: str) -> int:
        return self.run(["/bin/sh", "-c", script], grace_s=5)

    def python(self, script: str) -> int:
        return self.run([sys.executable, "-c", script], grace_s=5)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_lines_come_in_order_and_the_exit_code_with_them(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.sh("echo one; echo two >&2; printf 'a\\rb\\rthree'; exit 7") == 7
    assert box.lines == ["one", "two", "three"]


def test_a_command_that_a_signal_ends_tells_which(tmp_path: Path) -> None:
    assert Box(tmp_path).sh("kill -SEGV $$") == -signal.SIGSEGV


def test_a_command_that_is_not_there_ends_like_in_a_shell(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.run(["no-such-command"], grace_s=1) == 127
    assert box.lines == ["no-such-command: command not found"]


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-worker")
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "a-run")
    box = Box(tmp_path, SandboxLimits(cpus=3), GREETING="hello")
    assert box.sh("env; pwd") == 0
    *pairs, folder = box.lines
    seen = dict(pair.split("=", 1) for pair in pairs)
    expected = {"PATH", "HOME", "LANG", "TMPDIR", "GREETING", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert seen.keys() - {"PWD", "SHLVL", "_", "OLDPWD"} == expected | {"PREFECT__FLOW_RUN_ID"}
    assert seen["GREETING"] == "hello"
    assert seen["OMP_NUM_THREADS"] == "3"
    assert folder == str(tmp_path)


def test_secrets_are_not_in_the_lines(tmp_path: Path) -> None:
    lines: list[str] = []
    redact = Redaction(["hunter22"]).clean
    box = Sandbox(tmp_path, {"PASSWORD": "hunter22"}, SandboxLimits(), lines.append, redact)
    assert box.run(["/bin/sh", "-c", "echo it is $PASSWORD"], grace_s=1) == 0
    assert lines == ["it is ***"]


def test_no_secret_is_in_the_list_of_processes(tmp_path: Path) -> None:
    box = Box(tmp_path, WANDB="hunter22")
    assert box.sh("cat /proc/$PPID/cmdline /proc/$PPID/environ | tr '\\0' '\\n' | grep -c hunter22; true") == 0
    assert box.lines == ["0"]


def test_nothing_that_a_command_has_started_outlives_it(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.python(ESCAPE) == 0
    assert is_gone(int(box.lines[0]))


def test_an_exception_ends_the_command_gently(tmp_path: Path) -> None:
    said: list[str] = []

    def stop_at_ready(line: str) -> None:
        said.append(line)
        if line == "ready":
            raise KeyboardInterrupt

    box = Sandbox(tmp_path, {}, SandboxLimits(), stop_at_ready)
    script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    with pytest.raises(KeyboardInterrupt):
        box.run(["/bin/sh", "-c", script], grace_s=20)
    # The shell may tell of the child that the signal has ended, too.
    assert (said[0], said[-1]) == ("ready", "saved")


def test_a_command_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    said: list[str] = []

    def stop_at_ready(line: str) -> None:
        said.append(line)
        if line == "ready":
            raise KeyboardInterrupt

    box = Sandbox(tmp_path, {}, SandboxLimits(), stop_at_ready)
    script = "trap '' TERM; echo $$; echo ready; while :; do sleep 0.1; done"
    with pytest.raises(KeyboardInterrupt):
        box.run(["/bin/sh", "-c", script], grace_s=0.3)
    assert is_gone(int(said[0]))


def test_a_command_ends_with_whoever_has_started_it(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from prefect_trainyard.tasks.sandbox import Sandbox, SandboxLimits\n"
        f"box = Sandbox(Path({str(tmp_path)!r}), {{}}, SandboxLimits(), lambda line: print(line, flush=True))\n"
        f"box.run([{sys.executable!r}, '-c', {ESCAPE!r} + 'time.sleep(600)'], grace_s=5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        escaped = int(starter.stdout.readline())
        starter.kill()
    poll(lambda: is_gone(escaped), "the end of what the command had started", 30)


def test_memory_of_one_process_is_limited_by_the_kernel(tmp_path: Path) -> None:
    box = Box(tmp_path, SandboxLimits(memory_bytes=200 * MIB))
    assert box.python("x = bytearray(300 << 20)") == 1
    assert "MemoryError" in box.lines


def test_memory_of_all_processes_together_is_limited(tmp_path: Path) -> None:
    box = Box(tmp_path, SandboxLimits(memory_bytes=200 * MIB))
    script = "import os, time\nos.fork(); os.fork()\nx = bytearray(b'x') * (90 << 20)\ntime.sleep(600)"
    assert box.python(script) == -signal.SIGKILL
    assert box.excess is not None
    assert "may use 200 MiB" in box.excess
    assert box.lines[-1] == box.excess


def test_the_size_of_files_and_of_the_folder_is_limited(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    box = Box(tmp_path / "a", SandboxLimits(file_bytes=MIB))
    assert box.sh("head -c 2000000 /dev/zero > big") != 0
    assert (tmp_path / "a" / "big").stat().st_size == MIB
    (tmp_path / "b").mkdir()
    box = Box(tmp_path / "b", SandboxLimits(folder_bytes=MIB))
    assert box.sh("head -c 2000000 /dev/urandom > big; sleep 600") == -signal.SIGKILL
    assert "its folder held" in box.lines[-1]


def test_the_number_of_processes_is_limited(tmp_path: Path) -> None:
    box = Box(tmp_path, SandboxLimits(processes=5))
    assert box.sh("for i in 1 2 3 4 5 6 7 8; do sleep 600 & done; wait; sleep 600") != 0


@pytest.mark.skipif(not can_confine(), reason="needs a kernel with Landlock")
def test_a_confined_command_reaches_its_own_files_and_no_others(tmp_path: Path) -> None:
    key = tmp_path / "token.key"
    key.write_text("of the yard")
    (tmp_path / "own").mkdir()
    (tmp_path / "out").mkdir()
    lines: list[str] = []
    box = Sandbox(tmp_path / "own", {}, SandboxLimits(), lines.append, shared=[tmp_path / "out"])
    box.prepare_venv()
    for refused in (f"cat {key}", f"ls {tmp_path}", f"echo x > {tmp_path}/new", f"rm {key}", f"ln {key} own"):
        assert box.run(["/bin/sh", "-c", refused], grace_s=1) != 0
    # Nor what the processes of others have in their environment, nor the processes themselves.
    assert box.run(["/bin/sh", "-c", f"cat /proc/{os.getpid()}/environ"], grace_s=1) != 0
    assert box.run(["/bin/sh", "-c", f"kill -0 {os.getpid()}"], grace_s=1) != 0
    own = f"echo kept > {tmp_path}/out/x; echo mine > file; mkdir -p a/b; mv file a/b; cat a/b/file; echo > /dev/null"
    assert box.run(["/bin/sh", "-c", own], grace_s=1) == 0
    assert box.run(["/bin/sh", "-c", "python -c 'import torch, ssl, tempfile; tempfile.mkdtemp()'"], grace_s=1) == 0
    assert "of the yard" not in lines
    assert lines[-1] == "mine"
    assert (tmp_path / "out" / "x").read_text() == "kept\n"


@pytest.mark.skipif(not can_confine(), reason="needs a kernel with Landlock")
def test_a_confined_command_does_not_reach_the_servers_behind_the_facade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inner, socket.create_server(("127.0.0.1", 0)) as other:
        closed, free = inner.getsockname()[1], other.getsockname()[1]
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{closed}/api")
        box = Sandbox(tmp_path, {}, SandboxLimits(), lambda line: None, shared=[])
        for port, status in ((free, 0), (closed, 1)):
            script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
            assert box.run([sys.executable, "-c", script], grace_s=1) == status


def test_a_venv_of_its_own_has_pip_and_sees_the_packages_of_the_worker(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "mine"\nversion = "1"\n[tool.setuptools]\npy-modules = ["mine"]\n'
    )
    (package / "mine.py").write_text("")
    box = Box(tmp_path)
    box.prepare_venv()
    assert box.sh("pip install --quiet --no-build-isolation --no-index ./package") == 0, box.lines
    assert box.sh("python -c 'import mine, torch, sys; print(mine.__file__); print(sys.prefix)'") == 0, box.lines
    assert box.lines[-2].startswith(str(box.venv))
    assert box.lines[-1] == str(box.venv)


def test_requirements_that_cannot_be_installed_fail_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("--no-index\nno-such-package-anywhere\n")
    with pytest.raises(JobFailed, match=r"requirements\.txt"):
        Box(tmp_path).prepare_venv(tmp_path / "requirements.txt")


def test_a_venv_alone_does_not_see_the_packages_of_the_worker(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.prepare_venv(shares_packages=False)
    assert box.sh("python -c 'import torch'") == 1
    assert box.sh("python -m pip --version") == 0
    assert os.path.islink(box.venv / "bin" / "python")

"""The unmodified command line trainwave-cli 0.4.2: log in, launch, list, read along, cancel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support import Yard, poll

TRAIN = """
import os, sys, time
from pathlib import Path
print("training", sys.argv[1:], os.environ["GREETING"], "key", os.environ["WANDB_API_KEY"], {"loss": 0.5})
Path(os.environ["TRAINYARD_OUTPUT_DIR"], "model.txt").write_text("trained")
import helper
helper.work()
"""
HELPER = "def work():\n    print('the helper came along')\n"


@dataclass(frozen=True)
class Wave:
    """The client as a person runs it: a command, its options, what it prints."""

    command: Path
    home: Path

    def __call__(self, *words: str, folder: Path | None = None, **variables: str) -> str:
        run = subprocess.run(
            [str(self.command), *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder or self.home,
            env=self.environment(variables),
        )
        assert run.returncode == 0, f"{words}\n{run.stdout}\n{run.stderr}"
        return run.stdout

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        # A browser that prints the address of the page instead of showing it.
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "BROWSER": "echo %s", "COLUMNS": "200", **variables}


@pytest.fixture(scope="module")
def wave(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wave]:
    """The client in an environment of its own. With typer from 0.29 on its `launch` dies, whatever the server does."""
    folder = tmp_path_factory.mktemp("wave")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    packages = ["trainwave-cli==0.4.2", "typer<=0.28"]
    subprocess.run([str(folder / "venv/bin/pip"), "install", "--quiet", *packages], check=True, timeout=280)
    (folder / "home").mkdir()
    client = Wave(folder / "venv/bin/wave", folder / "home")
    client("auth", "set-endpoint", yard.api_url)
    yield client


@pytest.fixture
def code(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "helper.py").write_text(HELPER)
    (folder / ".gitignore").write_text("data/\n")
    return folder


def configure(folder: Path, **options: object) -> None:
    """Write `trainwave.toml` as a user does."""
    options = {"organization": "acme", "project": "default", "image": "trainwave/pytorch:2.3.1", **options}
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    text = "\n".join([*lines, "[env_vars]", 'GREETING = "hello"', 'WANDB_API_KEY = "${WANDB}"'])
    (folder / "trainwave.toml").write_text(text + "\n")


def launch(wave: Wave, folder: Path) -> str:
    printed = wave("jobs", "launch", folder=folder, WANDB="wandb-sentinel")
    found = re.search(r"Job created: (\S+) \(([0-9a-f-]{36})\)", printed)
    assert found, printed
    return found[2]


def state(wave: Wave, job: str) -> str:
    return wave("jobs", "status", "--project", "default", job).strip().rpartition(".")[2]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_whole_tutorial(yard: Yard, wave: Wave, code: Path) -> None:
    # Log in by the page: the command waits, a person pastes a key into the page, the command has a key of its own.
    environment = wave.environment({"PYTHONUNBUFFERED": "1"})
    login = subprocess.Popen(
        [str(wave.command), "auth", "login"], stdout=subprocess.PIPE, text=True, env=environment, cwd=wave.home
    )
    assert login.stdout is not None
    printed = iter(login.stdout.readline, "")
    page = next(found[0] for line in printed if (found := re.search(r"http://\S+/cli/login/[0-9a-f-]{36}", line)))
    assert "password" in httpx.get(page).text
    assert httpx.post(page, data={"key": "ty-wrong"}).status_code == 401
    assert httpx.post(page, data={"key": yard.key}).status_code == 200
    rest = login.communicate(timeout=60)[0]
    assert "Success" in rest, rest
    assert "Logged in as" in rest
    assert yard.key not in (wave.home / ".config" / "trainwave" / "config.toml").read_text()
    assert wave("auth", "whoami").strip() == "ann"

    # A key that one has already does as well.
    assert "API key is invalid" in wave("auth", "set-token", "ty-wrong")
    assert "API key is valid" in wave("auth", "set-token", yard.key)

    wave("secrets", "set", "--organization", "acme", "DEPLOY_TOKEN=deploy-sentinel")
    assert "DEPLOY_TOKEN" in wave("secrets", "list", "--organization", "acme")

    # A command that works.
    (code / "data").mkdir()
    (code / "data" / "large.bin").write_bytes(b"not to be sent")
    configure(
        code, name="works", setup_command="echo setting up; which python", run_command="python train.py --fast; ls"
    )
    job = launch(wave, code)
    poll(lambda: state(wave, job) == "SUCCESS", "the end of the job", 120, 0.5)
    logs = wave("jobs", "logs", job)
    assert "setting up" in logs
    assert "training ['--fast'] hello key *** {'loss': 0.5}" in logs
    assert "the helper came along" in logs
    assert "large.bin" not in logs
    assert "data" not in logs.splitlines()
    assert "Connection closed by server." in logs
    assert "wandb-sentinel" not in logs

    # One that fails.
    configure(code, name="fails", setup_command="", run_command="echo about to fail; exit 3")
    failed = launch(wave, code)
    poll(lambda: state(wave, failed) == "USER_PROCESS_FAILED", "the failure", 120, 0.5)
    assert "about to fail" in wave("jobs", "logs", failed)

    # One that somebody reads along with and then cancels.
    endless = "import time\nfor n in range(10_000):\n    print('step', n, flush=True)\n    time.sleep(0.1)\n"
    (code / "endless.py").write_text(endless)
    configure(code, name="endless", setup_command="", run_command="python endless.py", expires="1h")
    running = launch(wave, code)
    poll(lambda: state(wave, running) == "RUNNING", "the start", 120, 0.3)
    reader = subprocess.Popen(
        [str(wave.command), "jobs", "logs", running], stdout=subprocess.PIPE, text=True, env=environment, cwd=wave.home
    )
    assert reader.stdout is not None
    assert next(line for line in iter(reader.stdout.readline, "") if "step 3" in line)
    assert f"Cancelled job: {running}" in wave("jobs", "cancel", "--project", "default", running)
    poll(lambda: state(wave, running) == "USER_CANCELLED", "the cancellation", 60, 0.3)
    assert "Connection closed by server." in reader.communicate(timeout=30)[0]

    listed = wave("jobs", "list", "--organization", "acme")
    for name, word in (("works", "SUCCESS"), ("fails", "USER_PROCESS_FAILED"), ("endless", "USER_CANCELLED")):
        assert re.search(rf"{name}\s+{word}\s", listed), listed
    wave("secrets", "unset", "--organization", "acme", "DEPLOY_TOKEN")
    assert "DEPLOY_TOKEN" not in wave("secrets", "list", "--organization", "acme")

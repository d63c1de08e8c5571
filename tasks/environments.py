"""Virtual environments with what bundles require, made once for the same requirements and kept on the worker's disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from prefect.logging import get_logger

from ..schemas.bundles import Environment
from ..schemas.errors import JobFailed
from .sandbox import Sandbox

logger = get_logger("trainyard.environments")

#: So many are kept per org; the one that was not used for the longest time goes first.
KEEP = 20
_READY, _VENV = ".ready", "venv"
_TOKEN = re.compile(r"[^\s;,@]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What is to be installed; `sha256` is the same where the same environment comes out."""

    file: Path | None
    sha256: str


def read_requirements(root: Path, file: str | None) -> Requirements:
    """Return the requirements of the bundle in `root`; `file` is one that `open_bundle` has accepted."""
    digest = hashlib.sha256(f"{sys.version} {platform.platform()} {sys.prefix}\n".encode())
    for package in _installed():
        digest.update(f"{package}\n".encode())
    if file is None:
        return Requirements(file=None, sha256=digest.hexdigest())
    path = root / file
    for line in path.read_text("utf-8").splitlines():
        digest.update(f"{line.strip()}\n".encode())
        # A wheel of the bundle may change under the same name.
        for token in _TOKEN.findall(line):
            with contextlib.suppress(OSError, ValueError):
                if (named := (root / token)).is_file() and named.resolve().is_relative_to(root.resolve()):
                    digest.update(hashlib.sha256(named.read_bytes()).digest())
    return Requirements(file=path, sha256=digest.hexdigest())


class SandboxOf(Protocol):
    """Returns the sandbox of a bundle with an environment, and with folders that it may read."""

    def __call__(self, venv: Path, readable: Sequence[Path] = (), /) -> Sandbox: ...


@contextmanager
def environment(
    org: str,
    requirements: Requirements,
    venv: Path,
    sandbox_of: SandboxOf,
    say: Callable[[str], None],
) -> Iterator[tuple[Sandbox, Environment]]:
    """Give a sandbox whose virtual environment is `venv` and finds the requirements, installed now or earlier.

    What a command installs by itself goes into its own environment, never into the one that is kept.

    Raises:
        JobFailed: the requirements cannot be installed.
    """
    if requirements.file is None:
        sandbox = sandbox_of(venv)
        sandbox.prepare_venv()
        yield sandbox, _describe(requirements, sandbox)
        return
    # One cache per org: nobody runs what another org has installed.
    root = _root() / org
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(root / f"{requirements.sha256}.lock") as lock:
        kept = root / requirements.sha256
        if (kept / _READY).exists():
            say(f"The environment {requirements.sha256[:12]} is there already.")
        else:
            say(f"Installing {requirements.file.name} into the environment {requirements.sha256[:12]}.")
            _install(kept, requirements.file, sandbox_of(kept / _VENV))
        os.utime(kept)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _evict(root, kept)
        sandbox = sandbox_of(venv, [kept])
        sandbox.prepare_venv()
        _use(kept, sandbox)
        yield sandbox, _describe(requirements, sandbox)


def _install(kept: Path, requirements: Path, sandbox: Sandbox) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    try:
        sandbox.prepare_venv(requirements)
        (kept / _READY).touch()
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)
        raise


def _use(kept: Path, sandbox: Sandbox) -> None:
    """Let the environment of a sandbox find what is installed in the kept one, before what the worker has."""
    own, others = _packages(sandbox.venv), _packages(kept / _VENV)
    (own / "bundle.pth").write_text(f"{others}\n")
    for script in sorted((kept / _VENV / "bin").iterdir()):
        target = sandbox.venv / "bin" / script.name
        if not target.exists():
            target.symlink_to(script)


def _evict(root: Path, mine: Path) -> None:
    """Remove what was not used for long, but for what somebody uses now."""
    kept = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for path in kept[: max(0, len(kept) - KEEP)]:
        if path == mine:
            continue
        with contextlib.suppress(BlockingIOError), _locked(root / f"{path.name}.lock", wait=False):
            shutil.rmtree(path, ignore_errors=True)
            logger.info("The environment %s was not used for long and is gone.", path.name)


@contextmanager
def _locked(file: Path, *, wait: bool = True) -> Iterator[int]:
    lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield lock
    finally:
        os.close(lock)


def _describe(requirements: Requirements, sandbox: Sandbox) -> Environment:
    """Return what the interpreter of the environment finds."""
    listed = subprocess.run(
        [str(sandbox.venv / "bin" / "python"), "-c", _LIST],
        capture_output=True,
        text=True,
        env=sandbox.environment,
        cwd=sandbox.folder,
        timeout=120,
        check=False,
    )
    if listed.returncode != 0:
        raise JobFailed(f"The environment does not work: {listed.stderr.strip()[-300:]}")
    return Environment(
        sha256=requirements.sha256,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=listed.stdout.splitlines(),
    )


#: The first of each name is the one that an import finds.
_LIST = """
from importlib.metadata import distributions
found = {}
for d in distributions():
    name = d.metadata["Name"]
    if name:
        found.setdefault(name.lower(), f"{name}=={d.version}")
print("\\n".join(found[name] for name in sorted(found)))
"""


def _installed() -> list[str]:
    return sorted({f"{found.metadata['Name']}=={found.version}" for found in metadata.distributions()})


def _packages(venv: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))


def _root() -> Path:
    home = os.environ.get("TRAINYARD_HOME")
    return (Path(home) if home else Path.home() / ".trainyard") / "environments"

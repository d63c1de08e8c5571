"""Environments of bundles: installed once, kept per org, and never changed by those who use them."""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from pathlib import Path

import pytest
from prefect_trainyard.schemas.errors import JobFailed
from prefect_trainyard.tasks import environments
from prefect_trainyard.tasks.environments import environment, read_requirements
from prefect_trainyard.tasks.sandbox import Sandbox, SandboxLimits, can_confine


def make_wheel(path: Path, version: str) -> None:
    """Write a wheel of the package `greeting`, as an index would serve it."""
    info = f"greeting-{version}.dist-info"
    files = {
        "greeting.py": f"VERSION = {version!r}\n\ndef main():\n    print('hello', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: greeting\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeting:main\n",
    }
    lines = []
    for name, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(text)}")
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name), text)
        wheel.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*lines, f"{info}/RECORD,,", ""]))


class Bundle:
    """A folder with requirements, and what using it has printed."""

    def __init__(self, root: Path, version: str = "1.0") -> None:
        self.root = root
        self.lines: list[str] = []
        root.mkdir()
        make_wheel(root / "greeting-1.0-py3-none-any.whl", version)
        (root / "requirements.txt").write_text("--no-index\n./greeting-1.0-py3-none-any.whl\n")

    def sandbox_of(self, venv: Path, readable: Sequence[Path] = ()) -> Sandbox:
        shared: list[Path] = []
        return Sandbox(
            self.root, {}, SandboxLimits(), self.lines.append, venv=venv, shared=shared, readable=list(readable)
        )

    def use(self, *argv: str, org: str = "acme", venv: str = "venv") -> tuple[int, str]:
        """Run a command in the environment; return its exit code and the name of the environment."""
        wanted = read_requirements(self.root, "requirements.txt")
        made = environment(
            org, wanted, self.root.parent / f"{self.root.name}-{venv}", self.sandbox_of, self.lines.append
        )
        with made as (sandbox, described):
            assert any(package.startswith("greeting==") for package in described.packages)
            return sandbox.run(argv, grace_s=2), described.sha256


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path / "home"))
    return Bundle(tmp_path / "bundle")


def installed(bundle: Bundle) -> int:
    return sum(line.startswith("Installing requirements.txt") for line in bundle.lines)


def test_the_same_requirements_are_installed_once(bundle: Bundle) -> None:
    assert bundle.use("python", "-c", "import greeting; print(greeting.VERSION)")[0] == 0
    assert bundle.use("greet")[0] == 0
    assert installed(bundle) == 1
    assert bundle.lines[-1] == "hello 1.0"


def test_a_wheel_that_changed_under_its_name_makes_another_environment(bundle: Bundle, tmp_path: Path) -> None:
    _, first = bundle.use("greet")
    make_wheel(bundle.root / "greeting-1.0-py3-none-any.whl", "1.0")
    _, same = bundle.use("greet", venv="again")
    with zipfile.ZipFile(bundle.root / "greeting-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("more.py", "")
    _, other = bundle.use("greet", venv="other")
    assert first == same != other


def test_no_org_uses_the_environment_of_another(bundle: Bundle) -> None:
    bundle.use("greet")
    bundle.use("greet", org="eve", venv="eves")
    assert installed(bundle) == 2


@pytest.mark.skipif(not can_confine(), reason="the kernel confines nobody")
def test_who_uses_an_environment_cannot_change_it(bundle: Bundle) -> None:
    poison = "import greeting; open(greeting.__file__, 'w').write('VERSION = 666')"
    assert bundle.use("python", "-c", poison)[0] != 0
    assert any("PermissionError" in line for line in bundle.lines)
    assert bundle.use("greet", venv="next")[0] == 0
    assert bundle.lines[-1] == "hello 1.0"


def test_what_a_program_installs_by_itself_is_its_own(bundle: Bundle) -> None:
    other = bundle.root / "other"
    other.mkdir()
    make_wheel(other / "greeting-2.0-py3-none-any.whl", "2.0")
    install = "pip install --no-index --no-deps ./other/greeting-2.0-py3-none-any.whl && greet"
    assert bundle.use("sh", "-c", install)[0] == 0
    assert bundle.lines[-1] == "hello 2.0"
    assert bundle.use("greet", venv="next")[0] == 0
    assert bundle.lines[-1] == "hello 1.0"


def test_requirements_that_cannot_be_installed_leave_no_environment(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "requirements.txt").write_text("--no-index\nthere-is-no-such-package\n")
    with pytest.raises(JobFailed, match="could not install"):
        bundle.use("true")
    kept = tmp_path / "home" / "environments" / "acme"
    assert [path for path in kept.iterdir() if path.is_dir()] == []


def test_two_jobs_at_a_time_install_once(bundle: Bundle, tmp_path: Path) -> None:
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: codes.append(bundle.use("greet", venv=f"v{n}")[0])) for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert codes == [0, 0] and installed(bundle) == 1


def test_the_environments_that_nobody_used_for_long_go(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "KEEP", 1)
    _, first = bundle.use("greet")
    kept = tmp_path / "home" / "environments" / "acme"
    os.utime(kept / first, (time.time() - 100, time.time() - 100))
    (bundle.root / "requirements.txt").write_text("--no-index\n# another\n./greeting-1.0-py3-none-any.whl\n")
    _, second = bundle.use("greet", venv="second")
    assert [path.name for path in kept.iterdir() if path.is_dir()] == [second]

from __future__ import annotations

import subprocess
import sys

import pytest
from clients.nvtl import Nvtl
from clients.tao_client import TaoClient
from support import Yard


@pytest.fixture(scope="session")
def nvtl(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Nvtl:
    """The client in an environment of its own: it is proprietary and never part of this project."""
    folder = tmp_path_factory.mktemp("nvtl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run(
        [str(folder / "venv/bin/pip"), "install", "--quiet", "nvidia-tao-client==5.3.0"], check=True, timeout=280
    )
    (folder / "home").mkdir()
    return Nvtl(folder / "venv/bin/nvtl", folder / "home", f"{yard.api_url}/api/v1")


@pytest.fixture(scope="session")
def tao(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> TaoClient:
    """The client in an environment of its own: it is proprietary and never part of this project."""
    folder = tmp_path_factory.mktemp("tao401")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "nvidia-tao-client==4.0.1"]
    subprocess.run(pip, check=True, timeout=280)
    return TaoClient(folder / "venv/bin/tao-client", f"{yard.api_url}/api/v1")

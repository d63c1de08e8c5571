"""Real servers for tests: everything on 127.0.0.1, on free ports, stopped at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, Yard, trainyard

# Two cores: threads of torch and of ONNX Runtime in every process at once only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """One yard for the whole session: it takes seconds to start and serves any number of orgs."""
    home = tmp_path_factory.mktemp("yard") / "home"
    try:
        trainyard("up", "--home", str(home), "--port", "0", "--detach")
        status = json.loads(trainyard("status", "--home", str(home), "--json").stdout)
        key = trainyard("keys", "create", "--home", str(home), "--org", "acme", "--user", "ann").stdout.strip()
        yield Yard(home, status["api_url"], status["prefect_url"], status["mlflow_url"], key)
    finally:
        trainyard("down", "--home", str(home), check=False)
        for log in sorted((home / "logs" / "parts").glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handwritten digits of scikit-learn as folders and archives."""
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run([sys.executable, str(ROOT / "examples" / "digits.py"), str(folder)], check=True, capture_output=True)
    return folder

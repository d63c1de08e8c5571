"""The facade as a process: what it imports, where it listens, how it stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
from facade_support import free_port
from prefect_trainyard.api.services.accounts.keys import create_key
from prefect_trainyard.api.settings import ApiSettings
from support import poll


def loaded(statement: str) -> set[str]:
    """Return which heavy libraries a fresh interpreter has after a statement."""
    heavy = ("torch", "mlflow", "timm", "torchvision", "onnx", "prefect", "fastapi")
    code = f"{statement}\nimport sys\nprint(*[m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    return set(done.stdout.split())


def test_the_facade_imports_no_training_library() -> None:
    assert loaded("import prefect_trainyard.api.__main__") == {"prefect", "fastapi"}


def test_keys_are_made_without_heavy_imports() -> None:
    assert loaded("import prefect_trainyard.api.services.accounts.auth, prefect_trainyard.api.settings") == set()


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRAINYARD_")}
    return {**clean, "TRAINYARD_API_HOME": str(home), **more}


def test_refuses_to_listen_for_others_before_there_is_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefect_trainyard.api", "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, env=environment(tmp_path), cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "trainyard keys create" in done.stderr


def test_serves_and_stops_on_sigterm_though_prefect_is_away(tmp_path: Path) -> None:
    port = free_port()
    settings = ApiSettings(home=tmp_path)
    key = create_key(settings.database_url, "acme", "ann")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect_trainyard.api", "--port", str(port)],
        env=environment(tmp_path, TRAINYARD_API_PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api"),
        cwd="/",
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/") as client:

            def alive() -> bool:
                assert process.poll() is None
                try:
                    return client.get("liveness").status_code == 200
                except httpx.HTTPError:
                    return False

            poll(alive, "the facade", 60)
            ready = client.get("readiness")
            assert ready.status_code == 503 and ready.json()["prefect"] is False and ready.json()["catalog"] is True
            granted = client.post("login", json={"ngc_api_key": key}).json()
            listed = client.get(
                f"users/{granted['user_id']}/datasets", headers={"Authorization": f"Bearer {granted['token']}"}
            )
            assert listed.json() == []
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) in (0, -signal.SIGTERM)
    with_key = (tmp_path / "token.key").stat()
    assert with_key.st_mode & 0o777 == 0o600

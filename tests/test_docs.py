"""What the documents say is run or compared with the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prefect_trainyard.api.services.experiments.sweeps import WORDS
from prefect_trainyard.api.settings import ApiSettings
from prefect_trainyard.deployments.settings import YardSettings
from prefect_trainyard.deployments.worker_settings import WorkerSettings
from prefect_trainyard.networks.registry import networks
from prefect_trainyard.networks.tables import network_page, networks_table
from prefect_trainyard.schemas.sweeps import SweepSettings
from support import QUICK_TRAIN, ROOT


def settings_table() -> str:
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in YardSettings.model_fields.items():
        factory = field.default_factory
        default = "the cores of the machine" if factory else "" if field.default is None else f"`{field.default}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_complete() -> None:
    assert settings_table() in (ROOT / "docs" / "yard.md").read_text()


def sweep_settings_table() -> str:
    rows = ["| REST | form, Python | default | meaning |", "|---|---|---|---|"]
    for name, field in SweepSettings.model_fields.items():
        word = f"`{WORDS[name]}`" if name in WORDS else ""
        default = "" if field.default in (None, [], {}) else f"`{field.default}`"
        rows.append(f"| {word} | `{name}` | {default} | {field.description or ''} |")
    return "\n".join(rows)


def test_the_table_of_sweep_settings_is_complete() -> None:
    assert sweep_settings_table() in (ROOT / "docs" / "sweeps.md").read_text()


def test_the_table_of_networks_is_complete() -> None:
    assert networks_table() in (ROOT / "docs" / "networks.md").read_text(), (
        "run `make docs`, and copy `trainyard networks`"
    )


def test_every_network_has_its_page() -> None:
    pages = {path.name: path.read_text() for path in (ROOT / "docs" / "networks").glob("*.md")}
    assert pages == {f"{network.name}.md": network_page(network) for network in networks()}, "run `make docs`"


def test_the_variables_of_the_facade_are_as_they_are_told() -> None:
    rows = re.findall(r"^\| `TRAINYARD_API_(\w+)` \| `(.*?)` \| (.*) \|$", (ROOT / "docs/yard.md").read_text(), re.M)
    assert rows
    for name, default, meaning in rows:
        field = ApiSettings.model_fields[name.lower()]
        assert (default, meaning) == (str(field.default), field.description)


def test_every_variable_of_a_worker_in_the_documents_is_there() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        for name in re.findall(r"TRAINYARD_WORKER_([A-Z_]+)\b", page.read_text()):
            assert name.lower().strip("_") in {"", *WorkerSettings.model_fields}, f"{page.name}: {name}"


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_flow_in_the_readme_runs_with_prefect_alone(digits: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    script = tmp_path / "custom.py"
    script.write_text(
        f"{code}\n\n"
        "if __name__ == '__main__':\n"
        "    from prefect.testing.utilities import prefect_test_harness\n"
        "    with prefect_test_harness():\n"
        f"        folders = {str(digits / 'train')!r}, {str(digits / 'eval')!r}\n"
        f"        print('accuracy', small_classifier(*folders, {QUICK_TRAIN!r}))\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TRAINYARD_"))}
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=280,
        env={
            **environment,
            "TRAINYARD_STORAGE_URL": f"file://{tmp_path}/storage",
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    accuracy = float(re.findall(r"accuracy ([0-9.]+)", done.stdout)[-1])
    assert 0.5 < accuracy <= 1.0

from __future__ import annotations

from pathlib import Path

import pytest
from prefect_trainyard.deployments.settings import YardSettings, load_settings, storage_url
from pydantic import ValidationError


def test_defaults_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load_settings({})
    assert settings.home == tmp_path / ".trainyard"
    assert settings.host == "127.0.0.1"
    assert storage_url(settings) == f"file://{tmp_path}/.trainyard/storage"


def test_flags_win_over_variables_and_these_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.toml").write_text('workers = 2\nport = 1001\ncpus = 7\nstorage_url = "s3://bucket/x"\n')
    monkeypatch.setenv("TRAINYARD_PORT", "1002")
    monkeypatch.setenv("TRAINYARD_WORKERS", "3")
    settings = load_settings({"home": tmp_path, "workers": 4, "host": None})
    assert (settings.workers, settings.port, settings.cpus) == (4, 1002, 7)
    assert storage_url(settings) == "s3://bucket/x"


def test_the_home_of_the_file_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.toml").write_text("cpus = 5\n")
    monkeypatch.setenv("TRAINYARD_HOME", str(tmp_path))
    assert load_settings({}).cpus == 5


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("port", 70000),
        ("workers", -1),
        ("gpus", "a b"),
        ("cancel_grace_s", 0),
        ("cpus", "many"),
        ("command_pool", "caravan"),
    ],
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, flag: str, value: object) -> None:
    with pytest.raises(ValidationError):
        load_settings({"home": tmp_path, flag: value})


def test_the_list_of_settings_is_a_promise() -> None:
    """A new setting is welcome here; one that is renamed or dropped breaks somebody's yard."""
    assert set(YardSettings.model_fields) == {
        "home",
        "host",
        "port",
        "prefect_port",
        "mlflow_port",
        "workers",
        "cpus",
        "gpus",
        "cancel_grace_s",
        "command_pool",
        "storage_url",
        "storage_endpoint_url",
        "catalog_url",
        "prefect_database_url",
        "mlflow_database_url",
        "optuna_database_url",
    }
    for name, field in YardSettings.model_fields.items():
        assert field.description and field.description.endswith("."), name

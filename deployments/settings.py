"""Settings of a yard: flags win over `TRAINYARD_*` variables, these over the home's `settings.toml`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

SETTINGS_FILE = "settings.toml"


class YardSettings(BaseSettings):
    """Everything that can be set about one running installation."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_", extra="ignore", validate_default=True)

    home: Path = Field(
        default=Path("~/.trainyard"), description="Folder that holds all state of the yard: databases, files, logs."
    )
    host: str = Field(
        default="127.0.0.1", description="Address that the facade listens on; inner servers stay on loopback."
    )
    port: int = Field(default=8470, ge=0, le=65535, description="Port of the facade; 0 takes a free one.")
    prefect_port: int = Field(default=0, ge=0, le=65535, description="Port of the Prefect server; 0 takes a free one.")
    mlflow_port: int = Field(default=0, ge=0, le=65535, description="Port of the MLflow server; 0 takes a free one.")
    workers: int = Field(default=1, ge=0, le=64, description="Number of worker processes on this machine.")
    cpus: int = Field(
        default_factory=lambda: os.cpu_count() or 1, ge=1, le=4096, description="CPU slots of each worker."
    )
    gpus: str = Field(
        default="auto",
        pattern=r"^(auto|[0-9A-Za-z-]+(,[0-9A-Za-z-]*)*)$",
        description="GPUs of the workers: auto, 0 for none, or ids as in CUDA_VISIBLE_DEVICES (`0,` is GPU 0 alone).",
    )
    cancel_grace_s: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds that a cancelled job gets to save before it is killed."
    )
    command_pool: Literal["docker", "kubernetes", "process"] | None = Field(
        default=None,
        description="Type of the work pool for commands and bundles, docker or kubernetes; without one they run here.",
    )
    storage_url: str | None = Field(
        default=None, description="Artifact storage: a folder, file:// or s3://; the default is in the home."
    )
    storage_endpoint_url: str | None = Field(default=None, description="Address of an S3 server other than Amazon's.")
    catalog_url: str | None = Field(
        default=None, description="Database of the facade, an SQLAlchemy URL; the default is SQLite in the home."
    )
    prefect_database_url: str | None = Field(
        default=None, description="Database of Prefect, an SQLAlchemy URL; the default is SQLite in the home."
    )
    mlflow_database_url: str | None = Field(
        default=None, description="Database of MLflow, an SQLAlchemy URL; the default is SQLite in the home."
    )
    optuna_database_url: str | None = Field(
        default=None, description="Database of the sweeps' studies, an SQLAlchemy URL; the default is a file in each."
    )

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        given = init_settings().get("home") or os.environ.get("TRAINYARD_HOME") or "~/.trainyard"
        file = Path(given).expanduser() / SETTINGS_FILE
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=file)


def load_settings(flags: Mapping[str, Any]) -> YardSettings:
    """Return the settings of a yard; flags that are None were not given."""
    return YardSettings(**{name: value for name, value in flags.items() if value is not None})


def storage_url(settings: YardSettings) -> str:
    """Return where artifacts lie."""
    return settings.storage_url or f"file://{settings.home}/storage"


def catalog_url(settings: YardSettings) -> str:
    """Return the address of the facade's database."""
    return settings.catalog_url or f"sqlite:///{settings.home}/catalog.db"

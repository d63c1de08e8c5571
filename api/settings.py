"""Settings of the facade, from `TRAINYARD_API_*` environment variables."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .prices import Prices


class ApiSettings(BaseSettings):
    """What the facade needs to know. Everything has a default that works on one machine."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_API_", extra="ignore")

    home: Path = Field(
        default_factory=lambda: Path.home() / ".trainyard",
        description="Folder of the yard: the catalog, the signing key and half-received uploads lie in it.",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    root_path: str = Field(
        default="", pattern="^(/[^/]+)*$", description="Prefix that a proxy strips, for example /default."
    )
    database_url: str = Field(
        default="", description="SQLAlchemy URL of the catalog; SQLite in the home by default, PostgreSQL at scale."
    )
    prefect_api_url: str = Field(default="http://127.0.0.1:4200/api", description="API of the Prefect server.")
    prefect_auth_string: SecretStr | None = Field(default=None, description="user:password of the Prefect server.")
    mlflow_url: str | None = Field(default=None, description="Address of the MLflow server, shown to operators.")
    command_pool: str | None = Field(
        default=None, description="Type of the work pool for commands and bundles, where it is not the yard's own."
    )
    storage_url: str = Field(default="", description="Artifact storage; the folder `storage` in the home by default.")
    storage_endpoint_url: str | None = Field(default=None, description="Address of an S3 server other than Amazon's.")
    token_lifetime_s: int = Field(default=86_400, ge=60, le=86_400, description="Seconds until a token expires.")
    body_max_bytes: int = Field(default=1 << 20, ge=1 << 10, description="Largest JSON body, in bytes.")
    upload_max_bytes: int = Field(default=4 << 30, ge=1 << 10, description="Largest archive of one upload, in bytes.")
    pull_max_bytes: int = Field(
        default=64 << 30, ge=1 << 10, description="Most bytes that one data set may be fetched with from elsewhere."
    )
    private_hosts: list[Annotated[str, StringConstraints(pattern=r"^[^/@\s]{1,255}$")]] = Field(
        default=[],
        description='Hosts of private networks that data may be fetched from, as JSON: ["minio.lan:9000", "files"].',
    )
    free_min_bytes: int = Field(
        default=100 << 20, ge=0, description="Room that must be left on the disk of the storage, in bytes."
    )
    reconcile_interval_s: float = Field(
        default=5.0, ge=0.1, le=300, description="Seconds between two comparisons of the catalog with Prefect."
    )

    followers_max: int = Field(
        default=100, ge=1, le=10_000, description="Logs that the users of one org may follow at a time."
    )
    requests_per_s: float = Field(
        default=200, gt=0, le=1e6, description="Requests of one user in a second, in the long run; more get 429."
    )
    requests_burst: int = Field(
        default=2000, ge=1, le=10**6, description="Requests of one user that may come at once after a rest."
    )
    refusals_per_minute: int = Field(
        default=120, ge=1, le=10**6, description="Wrong credentials from one address in a minute; more get 429."
    )
    silence_max_s: float = Field(
        default=30, gt=0, le=3600, description="Seconds that a client may take for the next piece of its body."
    )
    gc_interval_h: float = Field(
        default=24.0, gt=0, le=8760, description="Hours between two clean-ups of what nobody needs any more."
    )

    currency: str = Field(default="USD", pattern="^[A-Z]{3}$", description="Currency of the prices.")
    price_per_cpu_hour: float = Field(default=0.0, ge=0, description="What one CPU core costs for an hour.")
    price_per_gpu_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default={},
        description='What one GPU costs for an hour, by its type as JSON: {"NVIDIA H200": 4.5, "default": 2.0}.',
    )

    @model_validator(mode="after")
    def _fill_in_home(self) -> ApiSettings:
        self.home = self.home.expanduser().absolute()
        self.database_url = self.database_url or f"sqlite:///{self.home}/catalog.db"
        self.storage_url = self.storage_url or f"file://{self.home}/storage"
        self.prefect_api_url = self.prefect_api_url.rstrip("/")
        return self

    @property
    def prices(self) -> Prices:
        """The price table."""
        return Prices(currency=self.currency, cpu_hour=self.price_per_cpu_hour, gpu_hour=dict(self.price_per_gpu_hour))

    @property
    def key_file(self) -> Path:
        """Where the key lies that signs tokens."""
        return self.home / "token.key"

    @property
    def secrets_key_file(self) -> Path:
        """Where the key lies that encrypts what users entrust to the yard."""
        return self.home / "secrets.key"

    @property
    def incoming(self) -> Path:
        """Folder for uploads that are not complete yet; emptied at start."""
        return self.home / "incoming"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the facade."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

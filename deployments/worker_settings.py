"""Settings of the warm worker, from `TRAINYARD_WORKER_*` environment variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ..networks.registry import networks
from .fencing import FREEZE_AFTER_S
from .scratch import default_root


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0))


def _everything_jobs_import() -> list[str]:
    implementations = sorted({network.implementation.partition(":")[0] for network in networks()})
    return [
        "torch",
        "torchvision",
        "mlflow.pyfunc",
        "matplotlib.figure",
        *implementations,
        "prefect_trainyard.flows.job",
        "prefect_trainyard.flows.command",
    ]


class WorkerSettings(BaseSettings):
    """What a worker needs to know beyond Prefect's own settings. Everything has a default."""

    model_config = SettingsConfigDict(env_prefix="TRAINYARD_WORKER_", extra="ignore")

    cpus: int = Field(default_factory=_usable_cpus, ge=1, description="CPU slots; the cores of the machine by default.")
    gpus: str = Field(
        default="auto", description="`auto`, `0` for none, or ids as in CUDA_VISIBLE_DEVICES (`0,` is GPU 0 alone)."
    )
    grace_s: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds from SIGTERM to SIGKILL when a run is stopped."
    )
    preload: Annotated[list[str], NoDecode] = Field(
        default_factory=_everything_jobs_import,
        description="Modules imported before the first run, separated by commas. Import only: no threads, no CUDA.",
    )
    scratch: Path = Field(
        default_factory=default_root,
        description="Folder in which each run gets a working folder of its own, deleted with its end.",
    )
    ready_file: Path | None = Field(
        default=None, description="Written when the worker is registered and its forkserver is warm."
    )

    machine: str | None = Field(
        default=None,
        min_length=1,
        description="Name of this machine, for containers: one that keeps it when it is started again. Left out, the "
        "boot and the process namespace tell machines apart.",
    )
    fence: bool | None = Field(
        default=None,
        description="Freeze runs while the Prefect server is out of reach. Left out, only if it is on another machine.",
    )
    fence_after_s: float = Field(
        default=FREEZE_AFTER_S, gt=0, le=FREEZE_AFTER_S, description="Seconds without the server before runs freeze."
    )

    @field_validator("preload", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

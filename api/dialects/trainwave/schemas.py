"""Bodies of requests, in both forms: flat as the document has it, and nested as the command line sends it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

_INT_MAX = 2**31 - 1
_TEXT_MAX = 20_000

Text = Annotated[str, Field(max_length=_TEXT_MAX)]
Word = Annotated[str, Field(max_length=500)]
Count = Annotated[int, Field(ge=0, le=_INT_MAX)]
Variables = Annotated[dict[str, str], Field(max_length=500)]


class ConfigIn(BaseModel):
    """A job as the command line describes it. Zeros and empty texts stand for what the user has not said."""

    name: Word = ""
    image: Word = ""
    setup_command: Text = ""
    run_command: Text = Field(min_length=1)
    hdd_size_mb: Count = 0
    memory_mb: Count = 0
    cpus: Count = 0
    gpus: Count = 0
    gpu_type: Word = ""
    env_vars: Variables = {}
    expires_at: Annotated[int, Field(ge=-1, le=2**40)] | None = Field(default=None, description="Seconds of the epoch.")
    compliance_soc2: bool | None = None
    clouds: Annotated[list[Word], Field(max_length=100)] | None = None
    interactive: bool = False


class JobIn(BaseModel):
    """A new job. With `config` it waits for its code; without, it starts at once."""

    project: Word | None = None
    config: ConfigIn | None = None
    name: Word = ""
    description: Annotated[str, Field(max_length=1000)] = ""
    gpu_type: Word | None = None
    gpus: Count | None = None
    cpu_cores: Count = 0
    memory_gb: Annotated[float, Field(ge=0, le=1 << 20)] = 0
    hdd_size_mb: Count = 0
    image: Word = ""
    setup_command: Text = ""
    run_command: Text | None = None
    env_vars: Variables = {}
    expires: Annotated[str, Field(max_length=100)] | None = Field(
        default=None, description="How long the job may take from now on, for example 4h or 1d 12h."
    )


class ProjectIn(BaseModel):
    name: Word
    organization: Word | None = None


class SecretIn(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=255)]
    value: Annotated[str, Field(max_length=32_768)]


class SecretsIn(BaseModel):
    secrets: Annotated[list[SecretIn], Field(min_length=1, max_length=500)]
    project: Word | None = None


class SessionIn(BaseModel):
    """Where a command line runs that wants to log in."""

    name: Annotated[str, Field(max_length=255)] = ""


class SessionStatusIn(BaseModel):
    token: Annotated[str, Field(min_length=1, max_length=200)]


class ConfigSessionIn(BaseModel):
    """The configuration that the command line has found, whatever is in it."""

    model_config = {"extra": "allow"}

    env_vars: Annotated[list[dict[str, Any]], Field(max_length=500)] = []

"""A command of a user's own, as the parameters of a `run` job."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

#: How the message of a job begins whose command has ended by itself.
ENDED_COMMAND, ENDED_SETUP = "The command ended", "The setup command ended"

#: How it begins when the command was killed for using more than it may.
KILLED_COMMAND = "The command was killed:"

#: The message of a job whose command has ended, while its files are brought to the storage.
UPLOADING_MESSAGE = "Uploading what the command has left."

_TEXT_MAX = 20_000


class Command(BaseModel):
    """What a `run` job runs, and what it asks of a worker. Values of variables are not in it: they may be secret."""

    model_config = ConfigDict(extra="forbid")

    run_command: str = Field(min_length=1, max_length=_TEXT_MAX, description="What to run, as for a shell.")
    setup_command: str = Field(
        default="", max_length=_TEXT_MAX, description="What to run before, in the same virtual environment."
    )
    image: str = Field(default="", max_length=500, description="Container image; workers without containers ignore it.")
    cpus: int = Field(default=1, ge=1, le=4096)
    gpus: int = Field(default=0, ge=0, le=1024)
    gpu_type: str | None = Field(default=None, max_length=100, description="GPU as its driver calls it.")
    memory_mb: int | None = Field(default=None, ge=1, le=1 << 30, description="Most memory of all processes, in MiB.")
    disk_mb: int | None = Field(default=None, ge=1, le=1 << 40, description="Most room of all files, in MiB.")
    needs_code: bool = Field(default=False, description="Whether there is code to be unpacked first.")

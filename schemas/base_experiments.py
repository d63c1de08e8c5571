"""Base experiments: pretrained weights that experiments start from, kept in the storage for all orgs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: In the folder of a base experiment, beside its record.
WEIGHTS_FILE = "weights.safetensors"
RECORD_FILE = "experiment.json"

_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class BaseExperiment(BaseModel):
    """What is known of pretrained weights; `experiment.json` in their folder."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    name: _Word
    version: _Word = Field(description="Mostly the backbone, as clients look for it: resnet18.")
    network: str
    team: _Word = "tao"
    description: Annotated[str, StringConstraints(max_length=1000)] = ""
    licence: Annotated[str, StringConstraints(max_length=1000)] = ""
    is_backbone: bool = Field(default=True, description="Only the backbone of the network; its head starts anew.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the weights.")
    size_bytes: int = Field(ge=0)
    created_at: datetime

    @property
    def path(self) -> str:
        """The address by which clients find it in a list: `nvidia/tao/NAME:VERSION`."""
        return f"nvidia/{self.team}/{self.name}:{self.version}"

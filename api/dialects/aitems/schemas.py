"""Answers of the document."""

from __future__ import annotations

from pydantic import BaseModel, Field


class TrainOut(BaseModel):
    serviceId: str = Field(description="Service ID: the id of the experiment")
    type: str = Field(description="Training request type: `train` or `retrain`")
    hpConfig: dict[str, str | int | bool] = Field(
        description="Hyperparameter optimization (HPO) settings: `is_enabled`, and options of the search"
    )
    version: str = Field(description="Training version: the id of the job")
    description: str | None = Field(default=None, description="Training description, where there is one")
    status: str = Field(description="waiting, training, stopping, paused, stopped, done or failed")
    createdDate: str = Field(description="When the training was requested, in UTC without a zone")
    nextUpdateDate: str | None = Field(
        default=None, description="When the service is trained next by a schedule, in UTC without a zone"
    )
    inference: bool = Field(description="Whether the model has predicted something")


class TrainsOut(BaseModel):
    trains: list[TrainOut]
    offset: int = Field(description="Start location of query data")
    limit: int = Field(description="Maximum number of query data")

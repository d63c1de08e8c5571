"""Answers, which the document leaves open."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

Status = Literal["queued", "building", "running", "stopping", "paused", "killed", "done", "failed"]


class JobOut(BaseModel):
    job_id: str
    workspace: str
    name: str = Field(description="Name of the bundle")
    description: str
    user: str = Field(description="Whom the job belongs to, as `user` said when it was made")
    status: Status
    message: str = Field(description="What the job waits for, what it does, or why it has ended")
    progress: float = Field(description="Share of the work that is done")
    bundle_id: str
    created_at: str
    started_at: str | None
    ended_at: str | None


class JobsOut(BaseModel):
    workspace: str
    jobs: list[JobOut] = Field(description="Newest first")
    total: int
    page_id: int
    page_count: int


class FileOut(BaseModel):
    path: str
    size_bytes: int
    sha256: str


class ModelOut(BaseModel):
    model_id: str
    name: str
    step: int
    metrics: dict[str, float]
    size_bytes: int
    sha256: str
    files: list[FileOut]
    created_at: str


class InfoOut(JobOut):
    parameters: dict[str, Any]
    metrics: dict[str, float] = Field(description="The last value of each metric")
    models: list[ModelOut] = Field(description="The best by `sort_by` first, else the newest")
    model_count: int
    page_id: int
    page_count: int
    sort_by: str | None


class StageOut(BaseModel):
    name: str
    entry_point: str
    arguments: list[str]
    inputs: list[str]
    outputs: list[str]
    after: list[str] = Field(description="Stages that make one of the inputs")


class PartOut(BaseModel):
    files: int
    size_bytes: int
    sha256: str


class PipelineOut(BaseModel):
    workspace: str
    bundle_id: str
    name: str
    description: str
    user: str
    created_at: str
    stages: list[StageOut]
    parameters: dict[str, Any]
    metrics: dict[str, str]
    requirements: str | None
    resources: dict[str, Any]
    parents: list[str]
    code: PartOut
    data: PartOut


class EnvironmentOut(BaseModel):
    sha256: str
    python: str
    platform: str
    packages: list[str]


class ParentOut(BaseModel):
    model_id: str
    job_id: str
    sha256: str


class ProvenanceOut(BaseModel):
    model_id: str
    name: str
    workspace: str
    job_id: str
    bundle_id: str
    user: str
    created_at: str
    sha256: str
    files: list[FileOut]
    code: PartOut
    data: PartOut
    environment: EnvironmentOut | None
    parameters: dict[str, Any]
    metrics: dict[str, float]
    parents: list[ParentOut]
    mlflow_run_id: str | None

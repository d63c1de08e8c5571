"""Tables of the catalog. What is written here for jobs is a projection of Prefect's flow runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcTime(TypeDecorator[datetime]):
    """A moment; SQLite keeps no zone, so it is stored and read as UTC everywhere."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {datetime: UtcTime, UUID: Uuid, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class Org(Base):
    __tablename__ = "orgs"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    max_running: Mapped[int | None] = mapped_column(Integer)
    """Jobs that may be with workers at a time; None is no limit."""
    max_storage_bytes: Mapped[int | None] = mapped_column(BigInteger)
    keep_days: Mapped[float | None] = mapped_column(Float)
    """Jobs that ended longer ago are cleaned up, but for those that something needs; None keeps all."""
    keep_jobs: Mapped[int | None] = mapped_column(Integer)
    """So many of the newest jobs of each experiment or data set are kept whatever their age."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Membership(Base):
    __tablename__ = "memberships"

    org: Mapped[str] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ApiKey(Base):
    """A key that can be exchanged for tokens. Only its hash is kept."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    prefix: Mapped[str] = mapped_column(String(16), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    release: Mapped[str] = mapped_column(String(10))
    """API release that the key's holder speaks, where releases disagree."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Dataset(Base):
    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_org_created", "org", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(500))
    description: Mapped[str] = mapped_column(String(1000))
    version: Mapped[str] = mapped_column(String(10))
    type: Mapped[str] = mapped_column(String(40))
    format: Mapped[str] = mapped_column(String(40))
    status: Mapped[str] = mapped_column(String(20))
    """empty, receiving or ready; see `services.data.data_status.DatasetStatus`."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    labels: Mapped[dict[str, Any]]
    """Fields that only describe (logo, client_url, ...), as a dialect names them."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Experiment(Base):
    __tablename__ = "experiments"
    __table_args__ = (Index("ix_experiments_org_created", "org", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(500))
    description: Mapped[str] = mapped_column(String(1000))
    version: Mapped[str] = mapped_column(String(500))
    network: Mapped[str] = mapped_column(String(100))
    metric: Mapped[str] = mapped_column(String(100))
    checkpoint: Mapped[str] = mapped_column(String(30))
    checkpoint_epochs: Mapped[dict[str, Any]]
    base_experiment_ids: Mapped[list[Any]]
    sweep: Mapped[dict[str, Any]]
    labels: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class ExperimentDataset(Base):
    """Which data sets an experiment uses, and as what. The key keeps a used data set from deletion."""

    __tablename__ = "experiment_datasets"

    experiment_id: Mapped[UUID] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(20), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id", ondelete="RESTRICT"), index=True)


class Job(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_org_created", "org", "created_at"),
        Index("ix_jobs_experiment_created", "experiment_id", "created_at"),
        Index("ix_jobs_dataset_created", "dataset_id", "created_at"),
        Index("ix_jobs_parent", "parent_id"),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_queue", "state", "priority", "due_at"),
        Index("ix_jobs_state_name", "state_name"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """The flow run id."""
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experiments.id"))
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("datasets.id"))
    bundle_id: Mapped[UUID | None] = mapped_column(index=True)
    """Bundle that the job trains. It stays as long as the job does."""
    action: Mapped[str] = mapped_column(String(40))
    network: Mapped[str | None] = mapped_column(String(100))
    parent_id: Mapped[UUID | None]
    name: Mapped[str] = mapped_column(String(500))
    description: Mapped[str] = mapped_column(String(1000))
    num_gpu: Mapped[int | None] = mapped_column(BigInteger)
    platform: Mapped[str | None] = mapped_column(String(20))
    priority: Mapped[int] = mapped_column(Integer, default=2)
    """A `schemas.attempts.Priority`; 1 goes first."""
    max_attempts: Mapped[int | None] = mapped_column(Integer)
    max_run_s: Mapped[float | None] = mapped_column(Float)
    """Longest time that the attempts may run together."""
    max_pending_s: Mapped[float | None] = mapped_column(Float)
    """Longest time in the queue, from when nothing but a worker is missing."""
    expires_at: Mapped[datetime | None]
    """The job is given up at this moment, whatever it does."""
    spec: Mapped[dict[str, Any]]
    dataset_ids: Mapped[list[Any]]
    """Data sets that the job reads; they are in use until it ends."""
    state: Mapped[str] = mapped_column(String(20))
    state_name: Mapped[str] = mapped_column(String(100), default="")
    """Prefect's name of the state: what a waiting job waits for, how far a pending one is, what follows a stop."""
    state_at: Mapped[datetime]
    """When Prefect entered the state; an older report never replaces a newer one."""
    due_at: Mapped[datetime | None]
    """Place in the queue among jobs of one priority; None when it is not in the queue."""
    pending_at: Mapped[datetime | None]
    """When the job became pending the last time."""
    message: Mapped[str] = mapped_column(String(6400))
    fraction: Mapped[float] = mapped_column(Float)
    eta_s: Mapped[float | None] = mapped_column(Float)
    progress_at: Mapped[datetime | None]
    history: Mapped[list[Any]]
    sweep: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The last `schemas.sweeps.SweepProgress` of a sweep, empty until there is one; None for any other job."""
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    tar_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    tar_sha256: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes of the folder, the log and the tar of the job, as of its last stop."""
    attempts: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """Executions so far: `schemas.attempts.Attempt` with `seconds`, `ended_as` and `cost` added.

    Those of the trials of a sweep say which with `trial`, a flow run id; see `services.accounts.usage`.
    """
    run_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    cpu_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    gpu_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    cost: Mapped[float] = mapped_column(Float, default=0.0)
    unaccounted: Mapped[bool] = mapped_column(Boolean, default=False, index=True)
    """The job was with a worker since its attempts and size were written here the last time, or has left trials."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class UsageRecord(Base):
    """What one attempt of a job has cost. It stays when the job is deleted."""

    __tablename__ = "usage_records"
    __table_args__ = (Index("ix_usage_records_org_started", "org", "started_at"),)

    job_id: Mapped[UUID] = mapped_column(primary_key=True)
    started_at: Mapped[datetime] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(String(255))
    experiment_id: Mapped[UUID | None]
    dataset_id: Mapped[UUID | None]
    action: Mapped[str] = mapped_column(String(40))
    seconds: Mapped[float] = mapped_column(Float)
    cpu_seconds: Mapped[float] = mapped_column(Float)
    gpu_seconds: Mapped[float] = mapped_column(Float)
    gpu_type: Mapped[str | None] = mapped_column(String(100))
    cost: Mapped[float] = mapped_column(Float)


class Purge(Base):
    """Files and a flow run of something that was deleted; the row goes when they are gone."""

    __tablename__ = "purges"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    paths: Mapped[list[Any]]
    flow_run_id: Mapped[UUID | None] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class IdempotencyKey(Base):
    """A POST that a client marked with an `Idempotency-Key`, and what it was answered."""

    __tablename__ = "idempotency_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    """Stands for the request wherever it makes something, so that a second try finds what the first one made."""
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"))
    user_id: Mapped[UUID]
    key: Mapped[str] = mapped_column(String(255))
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body."""
    status_code: Mapped[int | None] = mapped_column(Integer)
    """None while the first request is being worked on."""
    media_type: Mapped[str | None] = mapped_column(String(100))
    answer: Mapped[bytes | None] = mapped_column(LargeBinary)
    locked_until: Mapped[datetime]
    """When another request with the key may take over, should the first one never answer."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now, index=True)

    __table_args__ = (Index("uq_idempotency_keys_org_user_id_key", "org", "user_id", "key", unique=True),)

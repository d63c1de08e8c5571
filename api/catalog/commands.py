"""Tables for jobs that run commands: projects, code, secrets of orgs, sessions of command lines."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .models import Base, utc_now


class Project(Base):
    """What commands of an org are grouped by."""

    __tablename__ = "projects"
    __table_args__ = (Index("uq_projects_org_name", "org", "name", unique=True),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(500))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CommandJob(Base):
    """What a `run` job has beyond any other job. A run that somebody started in Prefect's UI has none."""

    __tablename__ = "command_jobs"
    __table_args__ = (Index("ix_command_jobs_project", "project_id"),)

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    upload_sha256: Mapped[str | None] = mapped_column(String(64), unique=True)
    """Hash of what the address for the upload of the code ends with; None where no code is waited for."""
    code_bytes: Mapped[int | None] = mapped_column(BigInteger)
    ready_at: Mapped[datetime | None]
    """When everything was there that the job needs; until then it is held back."""
    usage: Mapped[dict[str, Any]]
    """What the command used when it was last measured."""


class OrgSecret(Base):
    """A variable that all commands of an org or of a project get."""

    __tablename__ = "org_secrets"
    __table_args__ = (Index("ix_org_secrets_org_name", "org", "name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"))
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(255))
    secret: Mapped[str] = mapped_column(Text)
    """The value, encrypted."""
    digest: Mapped[str] = mapped_column(String(64))
    """What tells two values apart and nothing else: a keyed hash."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CliSession(Base):
    """A command line that waits for its user to log in at the web page."""

    __tablename__ = "cli_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    """Hash of what the command line shows; the address of the page names the id only."""
    name: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(20))
    """login, or config for a session in which the user fills in a configuration."""
    org: Mapped[str | None] = mapped_column(ForeignKey("orgs.name", ondelete="CASCADE"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    """Who has approved it."""
    secret: Mapped[str | None] = mapped_column(Text)
    """A configuration, encrypted: it may hold passwords."""
    done: Mapped[bool] = mapped_column(default=False)
    expires_at: Mapped[datetime] = mapped_column(index=True)

"""Tables for data that lie in clouds, and for variables of jobs. Secrets are here in their encrypted form only."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from .models import Base, utc_now


class Workspace(Base):
    """A bucket, or another place in a cloud, with what opens it."""

    __tablename__ = "workspaces"
    __table_args__ = (Index("ix_workspaces_org_created", "org", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str] = mapped_column(String(500))
    description: Mapped[str] = mapped_column(String(1000))
    version: Mapped[str] = mapped_column(String(500))
    cloud_type: Mapped[str] = mapped_column(String(20))
    details: Mapped[dict[str, Any]]
    """Bucket, region and whatever else everybody in the org may see."""
    secret: Mapped[str | None] = mapped_column(Text)
    """Keys, as encrypted JSON."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class Pull(Base):
    """Where the files of a data set are fetched from, and how that went the last time."""

    __tablename__ = "pulls"

    dataset_id: Mapped[UUID] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    workspace_id: Mapped[UUID | None] = mapped_column(ForeignKey("workspaces.id", ondelete="SET NULL"), index=True)
    source: Mapped[dict[str, Any]]
    """A `services.data.sources.Source` without its secrets."""
    secret: Mapped[str | None] = mapped_column(Text)
    """Whole addresses and keys, as encrypted JSON."""
    state: Mapped[str] = mapped_column(String(20), index=True)
    """waiting, running, done or failed; see `services.data.pulls.PullState`."""
    message: Mapped[str] = mapped_column(String(1000))
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)


class JobVariables(Base):
    """Environment variables for the jobs of an experiment or a data set."""

    __tablename__ = "job_variables"

    owner_id: Mapped[UUID] = mapped_column(primary_key=True)
    """Id of the experiment or the data set."""
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    names: Mapped[list[Any]]
    secret: Mapped[str] = mapped_column(Text)
    """The variables, as encrypted JSON."""

"""The table of bundles."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from .models import Base, utc_now


class Bundle(Base):
    """Code, data and manifest as they were sent. A workspace is the bundles that were sent to it."""

    __tablename__ = "bundles"
    __table_args__ = (Index("ix_bundles_org_workspace_created", "org", "workspace", "created_at"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    org: Mapped[str] = mapped_column(ForeignKey("orgs.name"))
    workspace: Mapped[str] = mapped_column(String(100))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    owner: Mapped[str] = mapped_column(String(255))
    """Who the sender says that the training belongs to; the sender, unless they say so."""
    manifest: Mapped[dict[str, Any]]
    """A `schemas.bundles.BundleManifest`."""
    code: Mapped[dict[str, Any]]
    """`files`, `size_bytes` and `sha256` of everything but the data."""
    data: Mapped[dict[str, Any]]
    """The same of the data."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    """What it takes in the storage."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

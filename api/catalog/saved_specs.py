"""The table of saved specs."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from .models import Base, utc_now


class SavedSpec(Base):
    """The spec that the next job of an action of an experiment or a data set gets, as the client sent it."""

    __tablename__ = "saved_specs"

    owner_id: Mapped[UUID] = mapped_column(primary_key=True)
    """One of the two ids below."""
    action: Mapped[str] = mapped_column(String(40), primary_key=True)
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    dataset_id: Mapped[UUID | None] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), index=True)
    spec: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(default=utc_now)

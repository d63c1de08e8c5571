"""Indexes that lists of jobs are counted and sorted by without a look at the rows."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for owner in ("experiment", "dataset"):
        op.create_index(f"ix_jobs_org_{owner}_created", "jobs", ["org", f"{owner}_id", "created_at", "id"])


def downgrade() -> None:
    for owner in ("experiment", "dataset"):
        op.drop_index(f"ix_jobs_org_{owner}_created", "jobs")

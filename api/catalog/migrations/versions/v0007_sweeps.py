"""How far the sweep of a job is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("sweep", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "sweep")

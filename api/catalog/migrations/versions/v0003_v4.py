"""Saved specs of experiments and data sets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "saved_specs",
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=True),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_saved_specs_experiment_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_saved_specs_dataset_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("owner_id", "action", name="pk_saved_specs"),
    )
    op.create_index("ix_saved_specs_experiment_id", "saved_specs", ["experiment_id"])
    op.create_index("ix_saved_specs_dataset_id", "saved_specs", ["dataset_id"])


def downgrade() -> None:
    op.drop_table("saved_specs")
